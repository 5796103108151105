"""`gradient="sampled"`: right on average, off by what its bound allows, exact where it says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.errors import KernelError
from crucible_kitchen.kernels.common.tolerance import TOLERANCE
from crucible_kitchen.kernels.linear_logprobs import cases, reference
from crucible_kitchen.kernels.linear_logprobs.variant import Variant
from crucible_kitchen.ops import _linear_logprobs_cpu as cpu
from crucible_kitchen.ops import _sampled_slope

SEED = 3 << 40 | 5


def inputs(
    T: int = 67, H: int = 37, V: int = 1031, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """As peaked as what a language model says of text."""
    return cases.inputs(cases.Size(T, H, V, 1.7), dtype, "cpu")


@pytest.mark.parametrize("eps", [2.0**-12, 2.0**-6, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["one_row", "one_word", "odd"])
def test_it_keeps_what_the_definition_keeps(size: str, dtype: torch.dtype, eps: float) -> None:
    args = cases.inputs(cases.SIZES[size], dtype, "cpu")
    (got, sure), (want, wanted_sure) = (one.sampled(*args, eps, SEED) for one in (cpu, reference))
    # Logits of integers are as near as log-probabilities need.
    of_integers = dtype == torch.bfloat16 and _C.lora_linear_multiplies_int16()
    tolerance = 1e-4 if of_integers else TOLERANCE[torch.float32]
    for part, exact in zip((*got, sure), (*want, wanted_sure), strict=True):
        error = (part.double() - exact.double()).norm()
        assert error <= tolerance * exact.double().norm()


def test_the_mean_over_seeds_is_the_gradient_and_the_bound_holds() -> None:
    """The variance is the sum of p (eps - p) |W|^2 over p < eps."""
    args, eps, count = inputs(T=9), 2.0**-6, 2000
    exact = reference.forward(*args)
    drawn = torch.stack([cpu.sampled(*args, eps, seed).forward.slope for seed in range(count)])
    sure = cpu.sampled(*args, eps, 0).sure
    variance = drawn.double().var(0).sum(-1)
    bound = eps * (1 - sure) * args[1].square().sum(-1).max()
    assert (variance <= bound).all()
    assert (variance > 0).any()
    off = (drawn.double().mean(0) - exact.slope).square().sum(-1)
    # The mean of so many is off by as much as chance explains, over the tokens together.
    assert off.sum() == pytest.approx(float(variance.sum()) / count, rel=0.5)


def test_the_same_bits_for_any_number_of_threads_and_others_for_another_seed() -> None:
    made = {}
    before = torch.get_num_threads()
    args = inputs(T=150, H=70, V=9000)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made[threads] = cpu.sampled(*args, 2.0**-12, SEED)
    finally:
        torch.set_num_threads(before)
    for other in (made[2], made[5]):
        assert torch.equal(made[1].sure, other.sure)
        assert all(torch.equal(a, b) for a, b in zip(made[1].forward, other.forward, strict=True))
    assert not torch.equal(cpu.sampled(*args, 2.0**-12, 1).forward.slope, made[1].forward.slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_exact_and_gradients_within_the_bound(dtype: torch.dtype) -> None:
    hidden, weight, targets = inputs(T=64, H=48, V=5000, dtype=dtype)
    hidden.requires_grad_()
    keep = torch.rand(64, generator=torch.Generator().manual_seed(1)) < 0.7
    losses, grads = [], []
    for options in ({"gradient": "sampled", "seed": SEED}, {}):
        loss = ops.linear_cross_entropy(
            hidden, weight, targets, weights=keep.float(), z_loss=1e-4, **options
        )
        losses.append(loss.detach())
        grads.append(torch.autograd.grad(loss, hidden)[0])
    assert torch.equal(*losses)
    assert not grads[0][~keep].any()
    assert not torch.equal(*grads)
    assert (grads[0] - grads[1]).norm() <= 2e-2 * grads[1].norm()


def test_without_a_gradient_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sampled_slope, "LEAST_SURE", 2.0)
    args = inputs()
    got = ops.linear_logprobs(*args, gradient="sampled")
    assert torch.equal(got, ops.linear_logprobs(*args))


def test_a_softmax_that_is_nearly_even_is_exact_and_says_so() -> None:
    hidden, weight, targets = inputs(V=30_000)
    hidden = (hidden * 0.1).requires_grad_()
    with pytest.warns(
        UserWarning, match=r"linear_logprobs: the gradient is exact, not sampled: 0%"
    ):
        drawn = ops.linear_logprobs(hidden, weight, targets, gradient="sampled").sum()
    (got,) = torch.autograd.grad(drawn, hidden)
    (want,) = torch.autograd.grad(ops.linear_logprobs(hidden, weight, targets).sum(), hidden)
    assert torch.equal(got, want)


def test_the_head_gets_the_exact_gradient() -> None:
    hidden, weight, targets = inputs()
    weight.requires_grad_()
    hidden.requires_grad_()
    made = [
        torch.autograd.grad(
            ops.linear_logprobs(hidden, weight, targets, gradient=gradient).sum(), weight
        )[0]
        for gradient in ("sampled", "exact")
    ]
    assert torch.equal(*made)


def test_in_one_graph() -> None:
    hidden, weight, targets = inputs()
    hidden.requires_grad_()
    compiled = torch.compile(ops.linear_cross_entropy, fullgraph=True, backend="eager")
    (got,), (want,) = (
        torch.autograd.grad(loss(hidden, weight, targets, gradient="sampled", seed=4), hidden)
        for loss in (compiled, ops.linear_cross_entropy)
    )
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "sampld"}, "gradient must be one of exact, sampled, got 'sampld'; did you"),
        ({"logit_softcap": 3.0}, "must be 'exact' with a softcap or smoothing"),
        ({"label_smoothing": 0.1}, "must be 'exact' with a softcap or smoothing"),
    ],
)
def test_what_it_does_not_go_with(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.linear_cross_entropy(*inputs(), **{"gradient": "sampled", **options})


def test_what_has_none() -> None:
    with pytest.raises(ValueError, match="must be 'exact' with return_entropy"):
        ops.linear_logprobs(*inputs(), gradient="sampled", return_entropy=True)  # type: ignore[call-overload]
    without = Variant(cpu.forward, cpu.grad_weight)
    with pytest.raises(KernelError, match="gradient must be 'exact' on cpu, got 'sampled'"):
        _sampled_slope.sampled_forward("op", without, *inputs(), 2.0**-12, 0)


def test_numbers_that_are_not_finite_stay_seen() -> None:
    hidden, weight, targets = inputs()
    hidden[4, 2] = torch.nan
    hidden.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logprobs = ops.linear_logprobs(hidden, weight, targets, gradient="sampled")
    (grad,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert logprobs.isnan().nonzero().tolist() == [[4]]
    assert grad[4].isnan().all()
    assert grad[5].isfinite().all()
