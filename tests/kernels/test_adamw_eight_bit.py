"""AdamW on running means in 8 bits: what a step makes of codes and scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.adamw_step import cases
from crucible_kitchen.kernels.adamw_step.eight_bit import (
    BLOCK,
    dequantize,
    dynamic_code,
    quantize,
)

from .conftest import device, promised

BACKENDS = [backend for backend in promised() if backend != "triton"]  # it refuses 8 bits
SHAPES = ((3, 7), (BLOCK,), (2, BLOCK + 1), (0,), (3, 40_961))
Args = tuple[tuple[list[Tensor], ...], dict[str, Any]]


def inputs(dtype: torch.dtype, **changed: Any) -> Args:
    """The lists, and the options with the scales among them."""
    size = cases.Size(SHAPES)
    params, grads, exp_avgs, exp_avg_sqs = cases.inputs(size, dtype, device())
    means = [quantize(m, signed=True) for m in exp_avgs]
    squares = [quantize(v, signed=False) for v in exp_avg_sqs]
    scales = {
        "exp_avg_scales": [scale for _, scale in means],
        "exp_avg_sq_scales": [scale for _, scale in squares],
    }
    lists = params, grads, [code for code, _ in means], [code for code, _ in squares]
    return lists, {**cases.options(size), **scales, **changed}


def wide(args: Args) -> list[list[Tensor]]:
    """Parameters and both running means, float32."""
    (params, _, means, squares), options = args
    return [
        [param.float() for param in params],
        [
            dequantize(m, scale, signed=True)
            for m, scale in zip(means, options["exp_avg_scales"], strict=True)
        ],
        [
            dequantize(v, scale, signed=False)
            for v, scale in zip(squares, options["exp_avg_sq_scales"], strict=True)
        ],
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_a_step_is_that_of_the_widened_means(backend: Any, dtype: torch.dtype) -> None:
    """The parameter sees the means before they are narrowed again, and these are the nearest."""
    args = inputs(dtype)
    _, means, squares = wide(args)
    exact = [t.double() for t in args[0][0]], [g.double() for g in args[0][1]]
    moments = [m.double() for m in means], [v.double() for v in squares]
    plain = cases.options(cases.Size(SHAPES))
    with ops.using("reference"):
        ops.adamw_step(*exact, *moments, **plain)
    with ops.using(backend):
        ops.adamw_step(*args[0], **args[1])
    got = wide(args)
    tolerance = 2.0**-8 if dtype == torch.bfloat16 else 1e-6
    for have, want in zip(got[0], exact[0], strict=True):
        assert (have.double() - want).norm() <= tolerance * want.norm()
    for moment, signed, narrowed in ((moments[0], True, got[1]), (moments[1], False, got[2])):
        for want, have in zip(moment, narrowed, strict=True):
            nearest = dequantize(*quantize(want, signed=signed), signed=signed)
            # Float32 arithmetic moves a few values over the middle between two numbers.
            other = (have - nearest).abs() > 1e-5 * nearest.abs()
            assert other.sum() <= 1 + 1e-3 * have.numel()
            assert (have - want).norm() <= 0.02 * want.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_code_stands_for_its_number(backend: Any) -> None:
    """v = 0 and a large eps let the parameter show the mean; halving it keeps every code."""
    codes = torch.arange(256, dtype=torch.uint8, device=device())
    squares = torch.zeros(256, dtype=torch.uint8, device=device())
    param, grad = torch.zeros(256, device=device()), torch.zeros(256, device=device())
    mean_scale, square_scale = (torch.full((1,), s, device=device()) for s in (4.0, 0.0))
    kept = codes.clone()
    with ops.using(backend):
        ops.adamw_step(
            [param], [grad], [codes], [squares], step=1, lr=1.0, betas=(0.5, 0.5), eps=1.0,
            weight_decay=0.0, exp_avg_scales=[mean_scale], exp_avg_sq_scales=[square_scale],
        )  # fmt: skip
    numbers = torch.tensor(dynamic_code(signed=True), device=device())
    # m = 0.5 * 4 c, and lr / (1 - 0.5) = 2.
    torch.testing.assert_close(param, -4.0 * numbers, rtol=1e-6, atol=1e-12)
    assert torch.equal(codes, kept)
    assert mean_scale.item() == 2.0
    assert square_scale.item() == 0.0
    assert not squares.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_that_is_not_finite_changes_nothing(backend: Any) -> None:
    nan = torch.full((), float("nan"), dtype=torch.float64, device=device())
    args, before = inputs(torch.float32, norm=nan), inputs(torch.float32)
    with ops.using(backend):
        ops.adamw_step(*args[0], **args[1])
    for got, want in zip(wide(args), wide(before), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            args = inputs(torch.bfloat16, stochastic_rounding=True, seed=7)
            ops.adamw_step(*args[0], **args[1])
            results.append([t for tensors in wide(args) for t in tensors])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_does_not_fit_is_named() -> None:
    lists, options = inputs(torch.float32)
    with pytest.raises(ValueError, match="exp_avg_scales must have one number for each 256 elem"):
        ops.adamw_step(*lists, **{**options, "exp_avg_scales": options["exp_avg_scales"][1:]})
    with pytest.raises(ValueError, match="exp_avg_sq_scales must have one number"):
        ops.adamw_step(*lists, **{**options, "exp_avg_sq_scales": []})
    floats = [code.float() for code in lists[2]]
    explained = str(ops.explain("adamw_step", *lists[:2], floats, lists[3], **options))
    assert "exp_avgs and exp_avg_sqs must be uint8 with scales, got float32, uint8" in explained
    without = {**options, "exp_avg_scales": [], "exp_avg_sq_scales": []}
    assert "must be all float32 or all bfloat16 without scales, got uint8" in str(
        ops.explain("adamw_step", *lists, **without)
    )
    assert "the moments are in 8 bits" in str(ops.explain("adamw_step", *lists, **options))
