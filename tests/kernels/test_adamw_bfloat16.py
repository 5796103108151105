"""AdamW on running means in bfloat16: as near as rounding allows, and none of them stands still."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.adamw_step import cases
from crucible_kitchen.kernels.adamw_step.reference import round_stochastically

from .conftest import device, promised

BACKENDS = [backend for backend in promised() if backend != "triton"]  # it refuses them
SHAPES = ((3, 7), (1,), (2, 257), (0,), (3, 40_961))
Lists = tuple[list[Tensor], ...]


def lists(dtype: torch.dtype, grad_dtype: torch.dtype | None = None) -> Lists:
    params, grads, exp_avgs, exp_avg_sqs = cases.inputs(cases.Size(SHAPES), dtype, device())
    moments = [[t.bfloat16() for t in tensors] for tensors in (exp_avgs, exp_avg_sqs)]
    return params, [g.to(grad_dtype or dtype) for g in grads], *moments


def step(args: Lists, **changed: Any) -> None:
    options: dict[str, Any] = {**cases.options(cases.Size(SHAPES)), "seed": 3, **changed}
    ops.adamw_step(*args, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("grad_dtype", cases.DTYPES)
def test_it_rounds_as_the_reference_does(
    backend: Any, stochastic: bool, dtype: torch.dtype, grad_dtype: torch.dtype
) -> None:
    """The same noise: only what float32 arithmetic moves over an edge goes to the other side.

    That is one in 10 000, but for exp_avgs without FMA: nine tenths of one number of 8 bits and a
    twentieth of another are often half way between two such numbers.
    """
    got, want = lists(dtype, grad_dtype), lists(dtype, grad_dtype)
    with ops.using("reference"):
        step(want, stochastic_rounding=stochastic)
    with ops.using(backend):
        step(got, stochastic_rounding=stochastic)
    for place in (0, 2, 3):
        for have, wanted in zip(got[place], want[place], strict=True):
            torch.testing.assert_close(have.float(), wanted.float(), rtol=2.0**-7, atol=1e-6)
            if have.dtype == torch.bfloat16:
                assert (have != wanted).sum() <= 1 + 1e-2 * have.numel()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_mean_of_squares_has_noise_of_its_own(backend: Any, dtype: torch.dtype) -> None:
    """g = 0 and beta2 = 1 - 2^-9 leave (1 - 2^-9) v, which float32 has exactly: half a unit off."""
    squares = [torch.ones(n, dtype=torch.bfloat16, device=device()) for n in (3, 70_001)]
    zeros = [torch.zeros(len(v), device=device()) for v in squares]
    params, grads, means = ([z.to(t) for z in zeros] for t in (dtype, dtype, torch.bfloat16))
    betas = (0.5, 1 - 2.0**-9)
    with ops.using(backend):
        step((params, grads, means, squares), step=1, betas=betas, stochastic_rounding=True)
    for i, got in enumerate(squares):
        exact = torch.full((len(got),), betas[1])
        assert torch.equal(got.cpu(), round_stochastically(exact, coordinate=~i, seed=3))
    assert 0.45 < (squares[1] == 1).double().mean() < 0.55


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mean_of_squares_follows_where_rounding_to_nearest_stands_still(backend: Any) -> None:
    """From squares of 1 to squares of 1/4, at beta2 = 0.999."""
    steps, beta2, count = 1500, 0.999, 512
    theirs = torch.nn.Parameter(torch.zeros(count, dtype=torch.bfloat16, device=device()))
    theirs.grad = torch.full_like(theirs, 0.5)
    constants = {"lr": 1e-3, "betas": (0.9, beta2), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([theirs], fused=True, **constants)
    lists = [[t.clone()] for t in (theirs.detach(), theirs.grad, theirs.grad)]
    squares = torch.ones(count, dtype=torch.bfloat16, device=device())
    optimizer.state[theirs] = {
        "step": torch.tensor(999.0, device=device()),
        "exp_avg": theirs.grad.clone(),
        "exp_avg_sq": squares.clone(),
    }
    with ops.using(backend):
        for at in range(1000, 1000 + steps):
            ops.adamw_step(*lists, [squares], step=at, seed=at, **constants)
            optimizer.step()
    want = 0.25 + 0.75 * beta2**steps
    assert squares.double().mean().item() == pytest.approx(want, rel=0.02)
    # Noise of a step is at most a unit of 2^-8 (below 1), and 1 / (1 - beta2^2) steps add up.
    spread = squares.double().std().item()
    assert spread < 2.0**-9 / math.sqrt(1 - beta2**2)
    assert (optimizer.state[theirs]["exp_avg_sq"] == 1).all(), "torch's does not move"


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_steps_are_nearer_to_float64_than_torchs(backend: Any) -> None:
    """Gradients of changing size, parameters rounded stochastically."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4096, generator=generator).bfloat16().to(device())
    constants = {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    exact = [t.double() for t in (start, *(torch.zeros_like(start) for _ in range(3)))]
    ours = [t.clone() for t in (start, *(torch.zeros_like(start) for _ in range(3)))]
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], fused=True, **constants)
    for at in range(1, 401):
        size = 2.0 if at < 100 else 0.2
        grad = (size * (0.2 + torch.randn(4096, generator=generator))).bfloat16().to(device())
        with ops.using("reference"):
            p, _, m, v = exact
            ops.adamw_step([p], [grad.double()], [m], [v], step=at, **constants)
        with ops.using(backend):
            p, _, m, v = ours
            ops.adamw_step(
                [p], [grad], [m], [v], step=at, seed=at, stochastic_rounding=True, **constants
            )
        theirs.grad = grad
        optimizer.step()
    moved = exact[0] - start.double()
    mine, others = ((p.double() - exact[0]).norm() / moved.norm() for p in (ours[0], theirs))
    assert mine < 0.5 * others


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_what_is_not_finite_stays_so(backend: Any, dtype: torch.dtype) -> None:
    """Without a norm to look at; every place of a vector and what is left over at its end."""
    args = lists(dtype)
    for grad in args[1]:
        grad.fill_(math.nan)
        grad.flatten()[1::2] = math.inf
    with ops.using(backend):
        step(args, stochastic_rounding=True)
    for params, means, squares in zip(args[0], args[2], args[3], strict=True):
        for tensor in (params, means, squares):
            assert tensor.flatten()[::2].isnan().all()
        assert means.flatten()[1::2].isinf().all()
        assert squares.flatten()[1::2].isinf().all()
        assert params.flatten()[1::2].isnan().all()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            args = lists(torch.bfloat16)
            step(args, stochastic_rounding=True)
            results.append([t for place in (0, 2, 3) for t in args[place]])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_means_of_two_dtypes_are_refused_with_a_reason() -> None:
    params, grads, exp_avgs, exp_avg_sqs = lists(torch.bfloat16)
    mixed = [v.float() for v in exp_avg_sqs]
    options = cases.options(cases.Size(SHAPES))
    explained = str(ops.explain("adamw_step", params, grads, exp_avgs, mixed, **options))
    assert "must be all float32 or all bfloat16 without scales, got bfloat16, float32" in explained
    kept = str(ops.explain("adamw_step", params, grads, exp_avgs, exp_avg_sqs, **options))
    assert "the moments are in bfloat16; Triton's kernel has them in float32" in kept
