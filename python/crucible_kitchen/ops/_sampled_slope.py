"""The sampled gradient of `linear_logprobs`: where it is taken, and where it is not worth it."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

from torch import Tensor

from crucible_kitchen.errors import KernelError, did_you_mean
from crucible_kitchen.kernels.linear_logprobs.variant import Forward, Variant

GradientMethod = Literal["exact", "sampled"]

# Entries of the softmax below this probability are drawn: at most 1 / EPS of a token's are kept on
# average, beside those above it.
EPS = 2.0**-12
# Of all tokens' probability, what has to be above EPS. With less, most of the gradient would be
# drawn, and it would be noisier than it is fast.
LEAST_SURE = 0.5


def eps_of(op: str, gradient: str) -> float:
    """EPS, or 0 for an exact gradient.

    Raises:
        ValueError: it is neither.
    """
    known = get_args(GradientMethod)
    if gradient not in known:
        raise ValueError(
            f"{op}: gradient must be one of {', '.join(known)}, got {gradient!r}; "
            f"{did_you_mean(gradient, known)}"
        )
    return EPS if gradient == "sampled" else 0.0


def sampled_forward(
    op: str, kernel: Any, hidden: Tensor, weight: Tensor, targets: Tensor, eps: float, seed: int
) -> Forward:
    """A forward with a sampled slope; with the exact one, and a warning, where too much is drawn.

    Args:
        op: the name that errors carry.
        kernel: the backend that was chosen, a `Variant`.

    Raises:
        KernelError: the backend has no sampled slope.
    """
    variant: Variant = kernel
    if variant.sampled is None:
        raise KernelError(
            f"{op}: gradient must be 'exact' on {hidden.device.type}, got 'sampled', which its "
            "kernel does not have"
        )
    made, sure = variant.sampled(hidden, weight, targets, eps, seed)
    share = float(sure.mean())
    if share >= LEAST_SURE or share != share:
        return made
    warnings.warn(
        f"{op}: the gradient is exact, not sampled: {share:.0%} of the probability is in entries "
        f"of at least {eps:.1e}, and {LEAST_SURE:.0%} are needed",
        stacklevel=2,
    )
    return variant.forward(hidden, weight, targets)
