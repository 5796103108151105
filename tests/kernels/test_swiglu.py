"""What the conformance test cannot see of swiglu: what is saved, threads, extremes, checks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.swiglu import cases
from crucible_kitchen.kernels.swiglu.reference import swiglu as reference

ON_THE_CPU = (torch.float32, torch.bfloat16)  # what the compiled kernel takes


def inputs(dtype: torch.dtype = torch.float32, size: str = "many_blocks") -> tuple[Tensor, Tensor]:
    gate, up = cases.inputs(cases.SIZES[size], dtype, "cpu")
    return gate.requires_grad_(), up.requires_grad_()


def test_the_cpu_kernel_is_chosen() -> None:
    gate, up = inputs()
    assert ops.explain("swiglu", gate, up).chosen == "cpu"
    assert ops.explain("swiglu", gate.half(), up.half()).chosen == "reference"


def test_only_gate_and_up_are_saved() -> None:
    gate, up = inputs()
    y = ops.swiglu(gate, up)
    saved = {t.data_ptr() for t in y.grad_fn.saved_tensors}
    assert saved == {gate.data_ptr(), up.data_ptr()}


def test_bfloat16_is_nearer_to_the_truth_than_torch() -> None:
    gate, up = inputs(torch.bfloat16)
    want = reference(gate.double(), up.double())
    ours = (ops.swiglu(gate, up).double() - want).norm()
    assert ours < (functional.silu(gate) * up - want).norm()


def test_extremes_are_the_limits() -> None:
    gate = torch.tensor([-1e4, -100.0, -87.5, 0.0, 87.5, 1e4, torch.nan], requires_grad=True)
    y = ops.swiglu(gate, torch.ones(7))
    (slope,) = torch.autograd.grad(y.sum(), gate)
    torch.testing.assert_close(y[:6], torch.tensor([0.0, 0.0, 0.0, 0.0, 87.5, 1e4]))
    torch.testing.assert_close(slope[:6], torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]))
    assert y[6].isnan()
    assert slope[6].isnan()


@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            gate, up = inputs(dtype)
            y = ops.swiglu(gate, up)
            results.append([y, *torch.autograd.grad(y.sum(), (gate, up))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_compiles() -> None:
    gate, up = inputs(size="odd")

    def loss(gate: Tensor, up: Tensor) -> Tensor:
        return ops.swiglu(gate * 2, up).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(gate, up), (gate, up))
    assert all(
        torch.equal(a, b)
        for a, b in zip(got, torch.autograd.grad(loss(gate, up), (gate, up)), strict=True)
    )


@pytest.mark.parametrize(
    ("up", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"up must have gate's shape, \[2, 3\], got \[2, 4\]"),
        (torch.zeros(2, 3).bfloat16(), TypeError, "gate and up must have one floating dtype"),
        (torch.zeros(2, 3, device="meta"), ValueError, "up must be on gate's device, cpu, got"),
    ],
)
def test_bad_arguments_are_named(up: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"swiglu: {message}"):
        ops.swiglu(torch.zeros(2, 3), up)


def test_the_door_checks_what_it_is_given() -> None:
    gate = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"swiglu: y must have gate's shape, \[2, 3\], got \[3"):
        _C.swiglu_forward(gate, gate, torch.zeros(3, 2), 1)
    with pytest.raises(ValueError, match="swiglu: up must be contiguous, got strides"):
        _C.swiglu_forward(gate, torch.zeros(3, 2).t(), gate, 1)
    with pytest.raises(TypeError, match=r"swiglu: gate must be torch.float32 or torch.bfloat16"):
        _C.swiglu_forward(gate.long(), gate, gate, 1)
