"""What a GPU is refused for, told without having one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from crucible_kitchen import ops
from crucible_kitchen.ops import _refusals, _triton


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """No answer is remembered from here or left to others."""
    _refusals.gpu_refuses.cache_clear()
    yield
    _refusals.gpu_refuses.cache_clear()


def given(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """A GPU of this compute capability, and a Triton that would compile for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(_refusals, "_triton_interpreted", lambda: False)
    # Whether this build has cubins is not the question here: test_compiled_ahead.py asks it.
    monkeypatch.setattr(_triton, "_why_no_cubins", lambda: "this build has none")


def explained() -> str:
    """`ops.explain` of tensors that are on a GPU in name only."""
    with FakeTensorMode():
        gate, up = (torch.empty(4, 8, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        return str(ops.explain("swiglu", gate, up))


def test_an_old_gpu_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, (7, 5))
    said = explained()
    assert "triton    refused: cuda:0 is sm_75; our kernels are for sm_80 and later" in said
    assert said.startswith("swiglu: reference runs")


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_newer_gpu_is_taken(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    given(monkeypatch, capability)
    assert explained().startswith("swiglu: triton runs")


def test_without_a_gpu_the_reason_is_that(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "triton    refused: torch finds no CUDA device" in explained()
