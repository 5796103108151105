"""`linear_cross_entropy` against torch's on full logits, and where they differ on purpose."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.linear_logprobs import cases

from .conftest import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="linear_logprobs' tests run the kernel")


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden and weight as leaves, targets with ignored ones, weights with zeros."""
    hidden, weight, targets = cases.inputs(cases.Size(29, 12, 61), dtype, "cpu")
    targets[::4] = -100
    weights = torch.linspace(0.1, 2.0, 29)
    weights[1::5] = 0.0
    return hidden.requires_grad_(), weight.requires_grad_(), targets, weights


def eager(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """The same loss the long way, in float64."""
    weights, softcap = options.pop("weights"), options.pop("logit_softcap")
    reduction = options.pop("reduction")
    logits = hidden.double() @ weight.double().T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = cross_entropy(logits, targets, reduction="none", **options)
    counted = (targets != options["ignore_index"]).double()
    if weights is not None:
        counted = counted * weights
    losses = losses * counted
    if reduction == "none":
        return losses
    return losses.sum() / (counted.sum() if reduction == "mean" else 1)


@pytest.mark.parametrize(
    ("reduction", "softcap", "smoothing", "weighted"),
    list(itertools.product(("mean", "sum", "none"), (None, 3.0), (0.0, 0.2), (False, True))),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_matches_the_long_way(
    reduction: Any, softcap: float | None, smoothing: float, weighted: bool, dtype: torch.dtype
) -> None:
    hidden, weight, targets, weights = inputs(dtype)
    options: dict[str, Any] = {
        "weights": weights if weighted else None,
        "ignore_index": -100,
        "reduction": reduction,
        "logit_softcap": softcap,
        "label_smoothing": smoothing,
    }
    got = ops.linear_cross_entropy(hidden, weight, targets, **options)
    x, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    want = eager(x, w, targets, **options)
    assert got.shape == want.shape
    # Smoothing has the mean of all logits in it, most of which may be of integers.
    of_integers = dtype == torch.bfloat16 and _C.lora_linear_multiplies_int16()
    tolerance = 1e-5 if of_integers and smoothing else 1e-6
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    upstream = torch.linspace(-1, 1, want.numel()).reshape(want.shape)
    got_grads = torch.autograd.grad(got, (hidden, weight), upstream.to(got.dtype))
    want_grads = torch.autograd.grad(want, (x, w), upstream.double())
    tolerance = 4e-3 if dtype == torch.bfloat16 else 2e-6
    for have, wanted in zip(got_grads, want_grads, strict=True):
        assert (have.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("why", ["ignored", "weightless", "empty"])
def test_no_token_that_counts_is_zero_loss_and_zero_gradient(why: str, reduction: Any) -> None:
    hidden, weight, targets, weights = inputs(torch.float32)
    if why == "ignored":
        targets = torch.full_like(targets, -100)
    elif why == "weightless":
        weights = torch.zeros_like(weights)
    else:
        hidden, targets, weights = hidden[:0], targets[:0], weights[:0]
    loss = ops.linear_cross_entropy(
        hidden, weight, targets, weights=weights, reduction=reduction
    ).sum()
    assert loss == 0
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert (gradient == 0).all()


def test_another_ignore_index_may_be_a_token() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    targets = targets.clamp_min(0)
    got = ops.linear_cross_entropy(hidden, weight, targets, ignore_index=0)
    want = cross_entropy(hidden @ weight.T, targets, ignore_index=0)
    torch.testing.assert_close(got, want)


def test_compiles_into_one_graph() -> None:
    hidden, weight, targets, weights = inputs(torch.float32)

    def loss(hidden: Tensor) -> Tensor:
        return ops.linear_cross_entropy(hidden, weight, targets, weights=weights)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (want,) = torch.autograd.grad(loss(hidden), hidden)
    (got,) = torch.autograd.grad(compiled(hidden), hidden)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "avg"}, "reduction must be one of mean, sum, none, got 'avg'"),
        ({"logit_softcap": 0.0}, "logit_softcap must be above 0 or None, got 0.0"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
        ({"weights": torch.ones(3)}, r"weights must have shape \[T\] = \[29\], got \[3\]"),
        ({"weights": torch.ones(29, requires_grad=True)}, "weights must not require a gradient"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    with pytest.raises(ValueError, match=f"^linear_cross_entropy: {message}"):
        ops.linear_cross_entropy(hidden, weight, targets, **options)


def test_a_wrong_target_is_named_where_the_caller_put_it() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    targets[6] = 61
    with pytest.raises(ValueError, match=r"^linear_cross_entropy: .* got 61 at position 6"):
        ops.linear_cross_entropy(hidden, weight, targets)
