"""What the stages of reward modelling share: the loss of scored pairs, and what it prefers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crucible_kitchen.data import Judgement

if TYPE_CHECKING:
    from torch import Tensor

Scores = npt.NDArray[np.float64]
"""Scores of answers: chosen and rejected of each pair in turn, [2P]."""

_BINS = 5


def score_losses(
    scores: Sequence[Tensor] | Scores, judgements: Sequence[Judgement], centering: float
) -> Tensor:
    """The loss of each pair [P], differentiable in `scores` [2P] that are tensors [1]."""
    from crucible_kitchen import ops

    margins = np.asarray([judgement.margin for judgement in judgements], np.float64)
    ties = np.asarray([judgement.tie for judgement in judgements], np.bool_)
    return ops.pairwise_loss(scores[0::2], scores[1::2], margins, ties=ties, centering=centering)


def score_metrics(scores: Scores, judgements: Sequence[Judgement]) -> dict[str, float]:
    """What a reward model prefers, as means over pairs.

    Returns:
        ``rewards_chosen`` and ``rewards_rejected``; their difference ``margin``; and ``accuracy``,
        the share of pairs whose chosen answer has the higher score. Equal scores are not right, and
        pairs that were judged equal do not count: where all were, there is no ``accuracy``.
    """
    chosen, rejected = scores[0::2], scores[1::2]
    metrics = {
        "rewards_chosen": float(chosen.mean()),
        "rewards_rejected": float(rejected.mean()),
        "margin": float((chosen - rejected).mean()),
    }
    decided = _decided(scores, judgements)
    return {**metrics, "accuracy": float((decided > 0).mean())} if len(decided) else metrics


def calibration_error(scores: Scores, judgements: Sequence[Judgement]) -> float | None:
    """How far the model's certainty is from how often it is right; None without decided pairs.

    A difference d of scores says that its preference is right with probability s(\\|d\\|), in
    [1/2, 1]. In bins of equal width of that, the distance of its mean from the share of pairs that
    are right, weighted by their numbers. Equal scores are half right.

    Source: Guo et al. 2017, eq. 3, https://arxiv.org/abs/1706.04599
    """
    decided = _decided(scores, judgements)
    if not len(decided):
        return None
    certainty = 1.0 / (1.0 + np.exp(-np.abs(decided)))
    right = (np.sign(decided) + 1.0) / 2.0
    bins = np.minimum((certainty - 0.5) * 2 * _BINS, _BINS - 1).astype(np.int64)
    gaps = np.bincount(bins, weights=right - certainty, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(decided))


def _decided(scores: Scores, judgements: Sequence[Judgement]) -> Any:
    """Differences of scores of the pairs of which one answer is better."""
    kept = np.asarray([not judgement.tie for judgement in judgements], np.bool_)
    return (scores[0::2] - scores[1::2])[kept]
