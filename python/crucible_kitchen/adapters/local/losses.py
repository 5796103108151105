"""What computes each of `ports.LOSSES`, per token; the weights are applied by the caller.

Letters: lp the learner's log probability, the only one with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from crucible_kitchen import ops

Inputs = Mapping[str, Tensor]
Settings = Mapping[str, float]


def cross_entropy(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-lp"""
    return -lp


def _policy(name: str) -> Callable[[Tensor, Inputs, Settings], Tensor]:
    """A loss of `ops.policy_loss`, whose settings have other names here."""

    def per_token(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
        told = {_NAMES.get(key, key): value for key, value in settings.items()}
        return ops.policy_loss(lp, inputs["logprobs"], inputs["advantages"], loss=name, **told)

    return per_token


_NAMES: Final = {"clip_low_threshold": "clip_low", "clip_high_threshold": "clip_high"}

PER_TOKEN: Final[Mapping[str, Callable[[Tensor, Inputs, Settings], Tensor]]] = {
    "cross_entropy": cross_entropy,
    **{name: _policy(name) for name in ops.POLICY_LOSSES},
}
