"""What every backend of `linear_logprobs` brings: a forward, and the head's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Forward(NamedTuple):
    """What a forward returns; float32, or float64 from float64 inputs.

    Args:
        logprobs: sum over v of q_tv log p_tv, nats, [T]; q is the target, smoothed over V.
        lse: log of the sum over v of exp(logit_tv), [T].
        miss: 1 - p of the target, summed over the other tokens to keep its digits near p = 1, [T].
        slope: d logprobs_t / d hidden_t, [T, H], or [0, H] where it was not asked for.
    """

    logprobs: Tensor
    lse: Tensor
    miss: Tensor
    slope: Tensor


class Sampled(NamedTuple):
    """What a forward with a sampled slope returns.

    Args:
        forward: all exact but the slope, whose mean over seeds is the exact one.
        sure: the probability of the target and of all entries of at least eps, [T].
    """

    forward: Forward
    sure: Tensor


class Sum(NamedTuple):
    """What `sum_gradients` returns; float32, or float64 from float64 inputs.

    Args:
        logprobs: as a forward's, [T].
        grad_hidden, grad_weight: gradients of the sum over t of factors_t logprobs_t, [T, H] and
            [V, H].
    """

    logprobs: Tensor
    grad_hidden: Tensor
    grad_weight: Tensor


@dataclass(frozen=True)
class Variant:
    """One backend: functions as in `reference`, called with a token or more.

    `sampled` and `sum_gradients` are None where it has none.
    """

    forward: Callable[..., Forward]
    grad_weight: Callable[..., Tensor]
    sampled: Callable[..., Sampled] | None = None
    sum_gradients: Callable[..., Sum] | None = None

    def __call__(
        self,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        logit_softcap: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The log-probabilities alone, [T]."""
        return self.forward(hidden, weight, targets, logit_softcap, label_smoothing, False).logprobs
