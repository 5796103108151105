"""What a call of row_loss is told beside its columns."""

from __future__ import annotations

from typing import Final, NamedTuple


class Term(NamedTuple):
    """One formula of the weighted sum that the loss is.

    Args:
        formula: its name, in README.md.
        weight: what it is multiplied by.
        smoothing: e, the share of pairs whose label is taken to be wrong.
    """

    formula: str
    weight: float = 1.0
    smoothing: float = 0.0


class Settings(NamedTuple):
    """Numbers of the formulas, each read by those that name it in README.md.

    Args:
        divergence: from the reference, by name.
        beta: strength of the pull to the reference, per nat.
        reward_mean: what `bco_pair` subtracts from rewards.
        tau: temperature of `discopop`.
        alpha: of the divergence ``alpha``.
        centering: what the squared sum of a pair's scores is multiplied by.
        clip_low, clip_high: bounds of the ratio of probabilities.
    """

    divergence: str = "reverse_kl"
    beta: float = 0.1
    reward_mean: float = 0.0
    tau: float = 0.05
    alpha: float = 0.5
    centering: float = 0.0
    clip_low: float = 0.8
    clip_high: float = 1.2


DEFAULTS: Final = Settings()
