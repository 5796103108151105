"""Bias, entropy and z-loss of the linear head, against the logits written out in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import ops

T, H, V = 37, 24, 131


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((T, H), (V, H), (V,))
    )
    targets = torch.randint(0, V, (T,), generator=generator)
    leaves = (t.to(dtype).requires_grad_() for t in (hidden, 0.4 * weight, bias))
    return (*leaves, targets)


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    logits = hidden.double() @ weight.double().T
    return logits if bias is None else logits + bias.double()


def assert_same(got: Tensor, want: Tensor, leaves: tuple[Tensor, ...], relative: float) -> None:
    """Values and gradients, relative to their norms."""
    pairs = [(got, want)]
    pairs += zip(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), leaves), strict=True
    )
    for one, other in pairs:
        assert (one.double() - other.double()).norm() <= relative * other.double().norm()


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
def test_bias_is_added_to_the_logits(dtype: torch.dtype, relative: float) -> None:
    hidden, weight, bias, targets = inputs(dtype)
    want = logits_of(hidden, weight, bias).log_softmax(-1)[torch.arange(T), targets]
    got = ops.linear_logprobs(hidden, weight, targets, bias=bias)
    assert_same(got, want, (hidden, weight, bias), relative)
    loss = ops.linear_cross_entropy(hidden, weight, targets, bias=bias, reduction="none")
    torch.testing.assert_close(loss, -got)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("biased", [True, False])
def test_entropy_is_that_of_the_distribution(scale: float, biased: bool) -> None:
    hidden, weight, bias, targets = inputs()
    hidden = (scale * hidden).detach()
    added = bias if biased else None
    logits = logits_of(hidden, weight, added).detach()
    logprobs = logits.log_softmax(-1)
    want = -(logprobs.exp() * logprobs).sum(-1)
    got, entropy = ops.linear_logprobs(hidden, weight, targets, bias=added, return_entropy=True)
    assert (entropy.double() - want).abs().max() <= 1e-5 * logits.abs().max().clamp_min(1.0)
    assert not entropy.requires_grad
    torch.testing.assert_close(got, ops.linear_logprobs(hidden, weight, targets, bias=added))


@pytest.mark.parametrize(
    "options",
    [{}, {"logit_softcap": 3.0}, {"label_smoothing": 0.2}, {"weights": torch.arange(T) % 3.0}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_z_loss_is_the_squared_log_of_the_sum(options: dict[str, Any]) -> None:
    hidden, weight, _, targets = inputs()
    targets[5] = -100
    factors = options.get("weights", torch.ones(T)) * (targets >= 0)
    logits = logits_of(hidden, weight)
    if cap := options.get("logit_softcap"):
        logits = cap * torch.tanh(logits / cap)
    smoothing = options.get("label_smoothing", 0.0)
    want = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    want = factors * (want + 0.3 * logits.logsumexp(-1).square())
    got = ops.linear_cross_entropy(hidden, weight, targets, z_loss=0.3, reduction="none", **options)
    assert_same(got, want, (hidden, weight), 1e-5)


def test_z_loss_alone_has_the_gradient_of_a_frozen_head_too() -> None:
    hidden, weight, _, targets = inputs()
    head = weight.detach()
    want = 0.3 * logits_of(hidden, head).logsumexp(-1).square()
    plain = ops.linear_cross_entropy(hidden, head, targets, reduction="none")
    both = ops.linear_cross_entropy(hidden, head, targets, z_loss=0.3, reduction="none")
    assert_same(both - plain, want, (hidden,), 1e-4)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"bias": torch.zeros(V - 1)}, ValueError, r"bias must have shape \[V\] = \[131\]"),
        ({"bias": torch.zeros(V).double()}, TypeError, "bias must have weight's dtype"),
        ({"bias": torch.zeros(V, device="meta")}, ValueError, "bias must be on weight's device"),
        ({"z_loss": -1.0}, ValueError, "z_loss must be 0 or more"),
        ({"z_loss": float("nan")}, ValueError, "z_loss must be 0 or more"),
        (
            {"z_loss": 1.0, "logit_softcap": 2.0, "label_smoothing": 0.1},
            ValueError,
            ".*and 0 with a softcap and smoothing at once",
        ),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], error: type, said: str) -> None:
    hidden, weight, _, targets = inputs()
    with pytest.raises(error, match=f"linear_cross_entropy: {said}"):
        ops.linear_cross_entropy(hidden, weight, targets, **options)
