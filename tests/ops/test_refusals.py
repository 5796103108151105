"""What a GPU is refused for, told without having one; and tensors that are not on one device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from crucible_kitchen import ops
from crucible_kitchen.errors import KernelError
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
    monkeypatch.setattr(_refusals, "triton_interpreted", lambda: False)
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


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2**21, 2**11), "rms_norm: triton runs"),
        ((2**31, 16), "triton    refused: a dimension of 2147483648 is over 2^31 - 1"),
    ],
)
def test_elements_beyond_32_bits_are_taken_and_rows_are_not(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], said: str
) -> None:
    given(monkeypatch, (9, 0))
    with FakeTensorMode():
        x, weight = (torch.empty(s, device="cuda", dtype=torch.bfloat16) for s in (shape, shape[1]))
        assert said in str(ops.explain("rms_norm", x, weight, 1e-6))


def test_more_than_2_31_elements_fit_a_grid() -> None:
    """What the host side would launch, on tensors without memory."""
    grids: dict[str, tuple[int, ...]] = {}

    def launch(kernel: str, grid: tuple[int, ...], args: Any, configuration: Any) -> None:
        grids[kernel] = grid

    def variant(op: str) -> Any:
        return importlib.import_module(f"crucible_kitchen.kernels.{op}.triton_launch").variant(
            launch
        )

    def big(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta", dtype=torch.bfloat16)

    x = big(2**21 + 1, 2**11)
    variant("swiglu").backward(x, x, x)
    variant("rms_norm").backward(x, x, x[0], x[:, 0], (True, True))
    variant("rope")(big(2**21 + 1, 16, 64), *(big(2**21 + 1, 32) for _ in range(2)))
    assert set(grids) >= {"swiglu.backward", "rms_norm.grad_x", "rms_norm.grad_weight"}
    assert all(0 < n < 2**31 for grid in grids.values() for n in grid), grids


def on_meta(value: Any) -> Any:
    """A tensor, or the first of a list, on a device that no other one is on."""
    if isinstance(value, list):
        return [on_meta(value[0]), *value[1:]]
    return value.to("meta") if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("name", ops.OPS)
def test_tensors_on_several_devices_are_refused(name: str) -> None:
    cases = importlib.import_module(f"crucible_kitchen.kernels.{name}.cases")
    size = cases.SIZES["odd"]
    options = getattr(cases, "options", lambda size: {})(size)
    args = cases.inputs(size, torch.float32, "cpu")
    moved = [i for i, arg in enumerate(args) if isinstance(on_meta(arg), (torch.Tensor, list))]
    assert moved
    for i in moved:
        if isinstance(args[i], list) and not any(isinstance(t, torch.Tensor) for t in args[i]):
            continue
        if name == "varlen_attention" and i == 3:
            continue  # the host reads the bounds, wherever they are
        mixed = [*args[:i], on_meta(args[i]), *args[i + 1 :]]
        with pytest.raises((ValueError, KernelError), match=rf"(?s){name}: .*(device|must be on)"):
            getattr(ops, name)(*mixed, **options)
