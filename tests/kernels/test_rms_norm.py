"""What the conformance test cannot see of rms_norm: torch's own, what is saved, threads, checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.rms_norm import cases
from crucible_kitchen.kernels.rms_norm.reference import rms_norm as reference

ON_THE_CPU = (torch.float32, torch.bfloat16)  # what the compiled kernel takes


def inputs(
    dtype: torch.dtype = torch.float32, size: str = "many_rows"
) -> tuple[Tensor, Tensor, float]:
    return cases.inputs(cases.SIZES[size], dtype, "cpu")


def test_the_cpu_kernel_is_chosen() -> None:
    x, weight, eps = inputs()
    assert ops.explain("rms_norm", x, weight, eps).chosen == "cpu"
    assert ops.explain("rms_norm", x.half(), weight.half(), eps).chosen == "reference"


def test_it_is_what_torch_and_transformers_compute() -> None:
    x, weight, eps = inputs()
    module = LlamaRMSNorm(72, eps)
    module.weight.data = weight
    got = ops.rms_norm(x, weight, eps)
    torch.testing.assert_close(got, functional.rms_norm(x, (72,), weight, eps))
    torch.testing.assert_close(got, module(x).detach())


def test_bfloat16_is_nearer_to_the_truth_than_transformers() -> None:
    x, weight, eps = inputs(torch.bfloat16)
    module = LlamaRMSNorm(72, eps)
    module.weight.data = weight
    want = reference(x.double(), weight.double(), eps)
    theirs = (module(x).detach() - want).norm()
    assert (ops.rms_norm(x, weight, eps).double() - want).norm() < theirs


def test_a_frozen_weight_costs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[tuple[bool, bool]] = []
    run = _C.rms_norm_backward

    def watched(*args: Any) -> None:
        wanted.append((args[4] is not None, args[5] is not None))
        run(*args)

    monkeypatch.setattr(_C, "rms_norm_backward", watched)
    x, weight, eps = inputs()
    ops.rms_norm(x.requires_grad_(), weight, eps).sum().backward()
    ops.rms_norm(x.detach(), weight.requires_grad_(), eps).sum().backward()
    ops.rms_norm(x, weight, eps).sum().backward()
    assert wanted == [(True, False), (False, True), (True, True)]


def test_one_number_a_row_is_saved() -> None:
    x, weight, eps = inputs(size="odd")
    x = x.reshape(-1, 131).requires_grad_()
    y = ops.rms_norm(x, weight, eps)
    own = {x.data_ptr(), weight.data_ptr()}
    assert [t.shape for t in y.grad_fn.saved_tensors if t.data_ptr() not in own] == [(15,)]


def test_a_float32_weight_beside_bfloat16_rows() -> None:
    x, weight, eps = inputs(torch.bfloat16)
    leaves = [x.requires_grad_(), weight.float().requires_grad_()]
    y = ops.rms_norm(*leaves, eps)
    dx, dw = torch.autograd.grad(y.sum(), leaves)
    assert (y.dtype, dx.dtype, dw.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    want = torch.autograd.grad(reference(*wide, eps).sum(), wide)
    assert (dw - want[1]).norm() <= 8e-6 * want[1].norm()
    assert (dx - want[0]).norm() <= 2.0**-8 * want[0].norm()


@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_bits_depend_on_neither_threads_nor_neighbours(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x, weight, eps = inputs(dtype)
            y = ops.rms_norm(x.requires_grad_(), weight.requires_grad_(), eps)
            results.append([y, *torch.autograd.grad(y.sum(), (x, weight))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(ops.rms_norm(x[1, 30], weight, eps), results[0][0][1, 30])


def test_compiles() -> None:
    x, weight, eps = inputs(size="odd")
    leaves = [x.requires_grad_(), weight.requires_grad_()]

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return ops.rms_norm(x * 2, weight, eps).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(*leaves), leaves)
    want = torch.autograd.grad(loss(*leaves), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("x", "weight", "error", "message"),
    [
        ((2, 3), torch.zeros(4), ValueError, r"weight must have shape \[N\] = \[3\], got \[4\]"),
        ((2, 0), torch.zeros(0), ValueError, r"x must have shape \[..., N\] with N >= 1, got"),
        ((2, 3), torch.zeros(3).half(), TypeError, "x must be floating point and weight have"),
        ((2, 3), torch.zeros(3, device="meta"), ValueError, "weight must be on x's device, cpu"),
    ],
)
def test_bad_arguments_are_named(
    x: tuple[int, ...], weight: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"rms_norm: {message}"):
        ops.rms_norm(torch.zeros(x), weight, 1e-5)


def test_the_door_checks_what_it_is_given() -> None:
    x, weight, y, rstd = torch.zeros(2, 3), torch.zeros(3), torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"rms_norm: rstd must have shape \[M\] = \[2\]"):
        _C.rms_norm_forward(x, weight, 1e-5, y, torch.zeros(3), 1)
    with pytest.raises(TypeError, match=r"rms_norm: y must be torch.float32, got torch.bfloat16"):
        _C.rms_norm_forward(x, weight, 1e-5, y.bfloat16(), rstd, 1)
    with pytest.raises(TypeError, match=r"rms_norm: dweight must be torch.float32"):
        _C.rms_norm_backward(y, x, weight, rstd, None, weight.bfloat16(), 1)
