"""The loss of reward models: against its formula in float64, by its laws, and as a torch op."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.ops import pairwise_loss

CHOSEN = [1.5, -0.25, 3.0, 0.0]
REJECTED = [0.5, 0.75, -2.0, 0.0]
MARGIN = [0.0, 0.5, 1.0, 3.0]
TIES = [False, False, True, False]
CENTERING = 0.02


def tensors(dtype=torch.float64):
    return torch.tensor(CHOSEN, dtype=dtype), torch.tensor(REJECTED, dtype=dtype)


def options():
    return {"ties": torch.tensor(TIES), "centering": CENTERING}


def minus_log_s(x: float) -> float:
    return math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)) - x


def by_hand() -> list[float]:
    """The formula with Python's floats alone."""
    losses = []
    for c, r, m, tie in zip(CHOSEN, REJECTED, MARGIN, TIES, strict=True):
        d = c - r
        win = (minus_log_s(d) + minus_log_s(-d)) / 2 if tie else minus_log_s(d - m)
        losses.append(win + CENTERING * (c + r) ** 2)
    return losses


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of a result that is computed in float64.
    [(torch.float64, 1e-14), (torch.float32, 1e-7), (torch.bfloat16, 4e-3)],
)
def test_it_is_its_formula(dtype, tolerance) -> None:
    got = pairwise_loss(*tensors(dtype), torch.tensor(MARGIN), **options())
    assert got.dtype == dtype
    assert got.tolist() == pytest.approx(by_hand(), rel=tolerance)


def test_constants_may_be_arrays() -> None:
    chosen, rejected = tensors()
    got = pairwise_loss(
        chosen, rejected.numpy(), np.array(MARGIN), ties=np.array(TIES), centering=CENTERING
    )
    assert got.tolist() == pytest.approx(by_hand(), rel=1e-14)


def test_scores_may_be_many_tensors() -> None:
    chosen, rejected = ([one.requires_grad_() for one in t.split(1)] for t in tensors())
    got = pairwise_loss(chosen, tuple(rejected), torch.tensor(MARGIN), **options())
    assert got.tolist() == pytest.approx(by_hand(), rel=1e-14)
    got.sum().backward()
    assert all(one.grad is not None for one in (*chosen, *rejected))


def test_gradients_are_those_of_the_formula() -> None:
    scores = [one.requires_grad_() for one in tensors()]
    margin = torch.tensor(MARGIN)
    assert torch.autograd.gradcheck(lambda c, r: pairwise_loss(c, r, margin, **options()), scores)


def test_it_compiles_whole() -> None:
    chosen, rejected = tensors(torch.float32)
    compiled = torch.compile(pairwise_loss, fullgraph=True, backend="aot_eager")
    want, got = (f(chosen, rejected, **options()) for f in (pairwise_loss, compiled))
    torch.testing.assert_close(got, want)


# torch.func.jvp loads torch's own decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_transforms_are_followed() -> None:
    chosen, rejected = tensors()

    def loss(chosen):
        return pairwise_loss(chosen, rejected, **options())

    leaf = chosen.clone().requires_grad_()
    loss(leaf).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda c: loss(c).sum())(chosen), leaf.grad)
    _, tangent = torch.func.jvp(loss, (chosen,), (torch.ones_like(chosen),))
    torch.testing.assert_close(tangent, leaf.grad)
    mapped = torch.func.vmap(loss)(torch.stack([chosen] * 2))
    torch.testing.assert_close(mapped[1], loss(chosen))


def test_equal_scores_have_loss_ln_2_and_a_margin_costs_more() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    margin = torch.tensor([0.0, 1.0])
    assert pairwise_loss(zero, zero, margin).tolist() == pytest.approx(
        [math.log(2), math.log1p(math.e)]
    )


def test_a_tie_pulls_scores_together() -> None:
    scores = [one.requires_grad_() for one in tensors()]
    pairwise_loss(*scores, ties=torch.ones(4, dtype=torch.bool)).sum().backward()
    for c, r, by_c, by_r in zip(CHOSEN, REJECTED, *(s.grad.tolist() for s in scores), strict=True):
        assert np.sign(by_c) == np.sign(c - r)
        assert by_c == -by_r


@given(d=st.floats(-1e4, 1e4))
def test_no_difference_overflows(d) -> None:
    chosen = torch.tensor([d, d], requires_grad=True)
    loss = pairwise_loss(chosen, torch.zeros(2), ties=torch.tensor([False, True]))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(chosen.grad).all()
    assert loss.tolist() == pytest.approx([max(0.0, -d), abs(d) / 2], abs=math.log(2) + 1e-3)


def test_no_pairs_no_losses() -> None:
    empty = torch.zeros(0, requires_grad=True)
    pairwise_loss(empty, torch.zeros(0)).sum().backward()
    assert empty.grad.shape == (0,)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"centering": -1.0}, ValueError, "centering must be finite and at least 0, got -1.0"),
        ({"centering": math.nan}, ValueError, "centering must be finite and at least 0, got nan"),
        ({"margin": torch.zeros(3)}, ValueError, r"margin must have shape \[P\] = \[4\], got \[3"),
        ({"rejected": torch.zeros(1, 4)}, ValueError, r"rejected must have shape .* \[1, 4\]"),
        ({"chosen": torch.zeros(1, 4)}, ValueError, r"chosen must have shape \[P\], got \[1, 4\]"),
        ({"ties": torch.zeros(4)}, TypeError, "ties must be bool, got torch.float32"),
        ({"chosen": torch.ones(4).int()}, TypeError, "chosen must be floating point, got torch.in"),
    ],
)
def test_a_wrong_argument_is_named(change, error, said) -> None:
    chosen, rejected = tensors()
    with pytest.raises(error, match=said):
        pairwise_loss(**{"chosen": chosen, "rejected": rejected, **change})
