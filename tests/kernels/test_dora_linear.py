"""DoRA against its definition in float64, and against PEFT's own layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.common.tolerance import TOLERANCE
from crucible_kitchen.kernels.lora_linear import cases
from crucible_kitchen.kernels.lora_linear.reference import dora_linear as reference
from crucible_kitchen.kernels.lora_linear.variant import NO_DROP, Drop

DROP = Drop(0.3, cases.SEED)


def inputs(size: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """x, weight, lora_a, lora_b, magnitude, scale, bias; all but the weight want gradients."""
    x, w, a, b, scale, bias = cases.inputs(cases.SIZES[size], dtype, "cpu")
    generator = torch.Generator().manual_seed(1)
    magnitude = torch.randn(len(w), generator=generator)
    for leaf in (x, a, b, magnitude, *([] if bias is None else [bias])):
        leaf.requires_grad_()
    return x, w, a, b, magnitude, scale, bias


def gradients(y: Tensor, args: tuple[Any, ...]) -> list[Tensor]:
    """Of a sum with weights that are not all alike."""
    leaves = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    return list(torch.autograd.grad(y, leaves, upstream))


@pytest.mark.parametrize("drop", [NO_DROP, DROP], ids=["all of x", "dropout"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["one_row", "rank_1", "odd", "many_blocks"])
def test_values_and_gradients(size: str, dtype: torch.dtype, drop: Drop) -> None:
    args = inputs(size, dtype)
    y = ops.dora_linear(*args, dropout=drop.share, seed=drop.seed)
    rows = args[0].reshape(-1, args[0].shape[-1])
    want = reference(rows, *args[1:], drop).view(y.shape)
    got = [y, *gradients(y, args)]
    for one, other in zip(got, [want, *gradients(want, args)], strict=True):
        # The product is rounded before its factor, and so is its gradient: sums over few rows
        # cancel more of the gradient than of that rounding.
        assert (one.double() - other).norm() <= 4 * TOLERANCE[dtype] * other.double().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_no_further_from_float64_than_peft(dtype: torch.dtype) -> None:
    peft_layer = pytest.importorskip("peft.tuners.lora.dora").DoraLinearLayer
    x, w, a, b, magnitude, scale, bias = inputs("odd", dtype)
    base, lora_a, lora_b = (torch.nn.Linear(1, 1, bias=False) for _ in range(3))
    for linear, weight in ((base, w), (lora_a, a), (lora_b, b)):
        linear.weight = torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    base.bias = torch.nn.Parameter(bias.detach())
    theirs = peft_layer(fan_in_fan_out=False)
    theirs.weight = torch.nn.Parameter(magnitude.detach())
    args = (x, w, a, b, magnitude, scale, bias)
    with torch.no_grad():
        result = base(x)
        result = result + theirs(
            x, lora_A=lora_a, lora_B=lora_b, scaling=scale, base_layer=base, base_result=result
        )
        want = reference(x.reshape(-1, x.shape[-1]), *args[1:]).view(result.shape)
        error = (ops.dora_linear(*args).double() - want).norm()
        limit = (result.double() - want).norm()
    assert error <= max(limit, 1e-6 * want.norm())


@pytest.mark.parametrize("rows", [9, 1100])
def test_the_norm_of_an_update_that_nearly_cancels_the_weight(rows: int) -> None:
    a, b = torch.randn(3, 40), torch.randn(rows, 3)
    weight = -(b @ a) + 1e-2 * torch.randn(rows, 40)
    got = ops.dora_norm(weight, a, b, 1.0)
    want = (weight.double() + b.double() @ a.double()).norm(dim=1)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0)


def test_a_row_of_zeros_stays_one() -> None:
    x, w, a, b, magnitude, scale, bias = inputs("odd", torch.float32)
    w[3] = 0
    b = b.detach().index_fill(0, torch.tensor([3]), 0.0).requires_grad_()
    magnitude = ops.dora_norm(w, a, torch.zeros_like(b), scale)
    magnitude[3] = 0
    magnitude.requires_grad_()
    args = (x, w, a, b, magnitude, scale, bias)
    y = ops.dora_linear(*args)
    assert torch.equal(y[..., 3], bias[3].expand(y[..., 3].shape))
    assert all(part.isfinite().all() for part in gradients(y, args))


def test_under_autocast_and_in_one_graph() -> None:
    args = inputs("odd", torch.float32)
    want = ops.dora_linear(*args)
    compiled = torch.compile(ops.dora_linear, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args), want)
    with torch.autocast("cpu", torch.bfloat16):
        low = ops.dora_linear(*args)
    assert low.dtype == torch.bfloat16
    assert (low - want).norm() <= 2.0**-7 * want.norm()


@pytest.mark.parametrize(
    ("magnitude", "error", "message"),
    [
        (torch.ones(3), ValueError, r"dora_linear: magnitude must have shape \[N\] = \[131\]"),
        (torch.ones(131, dtype=torch.int64), TypeError, "magnitude must be floating point"),
    ],
)
def test_a_wrong_magnitude(magnitude: Tensor, error: type[Exception], message: str) -> None:
    x, w, a, b, _, scale, bias = inputs("odd", torch.float32)
    with pytest.raises(error, match=message):
        ops.dora_linear(x, w, a, b, magnitude, scale, bias)
    with pytest.raises(ValueError, match="dora_norm: lora_b must have shape"):
        ops.dora_norm(w, a, b.T, scale)
