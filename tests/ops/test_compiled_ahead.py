"""Which of the two ways to a Triton kernel `explain` names, on GPUs that are not here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.common.configuration import Configuration
from crucible_kitchen.ops import _refusals, _triton

CACHED = (_refusals.gpu_refuses, _triton._architecture_refuses, _triton._architecture)


class Built:
    """A build with cubins for two architectures."""

    architectures = {80, 90}  # noqa: RUF012


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tensors on a GPU of a compute capability, without memory."""

    def of(*capability: int) -> FakeTensorMode:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(_triton, "_why_no_cubins", lambda: None)
        monkeypatch.setattr(_C, "Cubins", Built)
        return FakeTensorMode()

    for function in CACHED:
        function.cache_clear()
    yield of
    for function in CACHED:
        function.cache_clear()


def explain(mode: FakeTensorMode, numel: int = 64, dtype: torch.dtype = torch.bfloat16) -> str:
    with mode:
        gate = torch.empty(numel, dtype=dtype, device="cuda")
    return str(ops.explain("swiglu", gate, gate))


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0)])
def test_what_was_built_runs_and_explain_says_so(gpu: Any, capability: tuple[int, int]) -> None:
    said = explain(gpu(*capability))
    assert "swiglu: cuda runs" in said
    assert "cuda      runs, compiled with this build" in said
    assert "triton    could run, ranked below" in said


@pytest.mark.parametrize(
    ("capability", "numel", "reason"),
    [
        ((9, 0), 17, "17 elements are no multiple of 16"),
        ((10, 0), 64, "cuda:0 is sm_100; this build has kernels for sm_80, sm_90"),
        ((12, 0), 64, "cuda:0 is sm_120; this build has kernels for sm_80, sm_90"),
    ],
)
def test_what_was_not_built_is_compiled_on_first_use_for_a_reason(
    gpu: Any, capability: tuple[int, int], numel: int, reason: str
) -> None:
    said = explain(gpu(*capability), numel)
    assert f"cuda      refused: {reason}" in said
    assert "triton    runs, compiled by Triton on first use" in said


def test_a_gpu_that_is_too_old_and_a_dtype_that_is_none_go_to_the_reference(gpu: Any) -> None:
    said = explain(gpu(7, 5))
    assert "swiglu: reference runs" in said
    assert said.count("cuda:0 is sm_75; our kernels are for sm_80 and later") == 2
    said = explain(gpu(9, 0), dtype=torch.float64)
    assert "swiglu: reference runs" in said
    assert said.count("the tensors are torch.float64; it takes float32, float16") == 2


def test_a_launch_goes_to_the_cubin_of_the_devices_architecture(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []

    class Family:
        def __init__(self, *key: Any) -> None:
            self.key = key

        def launch(self, grid: Any, args: Any) -> None:
            launched.append((*self.key, grid, args))

    configuration = Configuration({"BLOCK": 4})
    mode = gpu(8, 6)
    monkeypatch.setattr(_triton, "_family", Family)
    with mode:
        args = (torch.empty(4, device="cuda"), 4)
    _triton.launch("swiglu.forward", (1,), args, configuration)
    assert launched == [("swiglu.forward", 80, configuration, (1,), args)]
    assert configuration.key == "BLOCK=4 stages=3 warps=4"


def test_a_build_without_cubins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise RuntimeError("this build has no kernels compiled ahead of time")

    asked = _triton._why_no_cubins.__wrapped__  # what is remembered is not asked again
    monkeypatch.setattr(_C, "Cubins", none)
    monkeypatch.setattr(_C, "why_no_cuda", lambda: "")
    assert asked() == "this build has no kernels compiled ahead of time"
    monkeypatch.setattr(_C, "why_no_cuda", lambda: "this build has no CUDA kernels")
    assert asked() == "this build has no CUDA kernels"
