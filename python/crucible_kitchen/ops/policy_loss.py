"""`policy_loss`: losses of policies over log probabilities of sampled tokens."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor

from crucible_kitchen.errors import did_you_mean
from crucible_kitchen.kernels.row_loss.terms import Settings, Term
from crucible_kitchen.ops.row_loss import row_loss

POLICY_LOSSES: Final = ("importance_sampling", "ppo", "cispo", "dro")


def policy_loss(
    logprobs: Tensor,
    sampler_logprobs: Tensor,
    advantages: Tensor,
    *,
    loss: str = "ppo",
    clip_low: float = 0.8,
    clip_high: float = 1.2,
    beta: float = 0.05,
) -> Tensor:
    """The loss of each token; differentiable in `logprobs`, by `row_loss`.

    With r = exp(lp - q), lp the learner's and q the sampler's log probability, A the advantage, and
    sg for "no gradient through this":

        importance_sampling   -r A
        ppo                   -min(r A, clip(r) A)
        cispo                 -sg(clip(r)) lp A
        dro                   -(lp A - beta / 2 (lp - q)^2)

    Args:
        logprobs: lp, in nats, [T], floating point.
        sampler_logprobs: q, [T].
        advantages: A, [T].
        loss: a name of the above; kernels/row_loss/reference.py has their sources.
        clip_low, clip_high: bounds of r, read by ``ppo`` and ``cispo``.
        beta: strength of the pull to the sampler, read by ``dro``.

    Returns:
        [T], in the dtype of `logprobs`; float64 inside.

    Raises:
        ValueError: an unknown loss, shapes or devices that differ, or a number out of its range.
        TypeError: `logprobs` is not floating point.
    """
    if loss not in POLICY_LOSSES:
        raise ValueError(
            f"policy_loss: loss must be one of {', '.join(POLICY_LOSSES)}, got {loss!r}; "
            f"{did_you_mean(loss, POLICY_LOSSES)}"
        )
    if not 0.0 <= clip_low <= clip_high:
        raise ValueError(
            f"policy_loss: clip_low must be in [0, clip_high = {clip_high}], got {clip_low}"
        )
    if not 0.0 <= beta < math.inf:
        raise ValueError(f"policy_loss: beta must be finite and at least 0, got {beta}")
    for name, values in (("sampler_logprobs", sampler_logprobs), ("advantages", advantages)):
        if values.shape != logprobs.shape or logprobs.ndim != 1:
            raise ValueError(
                f"policy_loss: logprobs and {name} must have one shape [T], "
                f"got {list(logprobs.shape)} and {list(values.shape)}"
            )
    settings = Settings(beta=beta, clip_low=clip_low, clip_high=clip_high)
    columns = (logprobs, None, sampler_logprobs, advantages)
    return row_loss(*columns, terms=[Term(loss)], settings=settings)
