"""Say what the reward model preferred in the step that was just taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement
from crucible_kitchen.graph import stage

from ._scores import score_metrics


@stage
def record_scores(
    step: int,
    step_pairs: Sequence[int],
    batch_scores: Sequence[float],
    train_judgements: Sequence[Judgement],
    *,
    metrics: Metrics,
) -> None:
    """Metrics of the step's pairs, from before it was taken."""
    judgements = [train_judgements[place] for place in step_pairs]
    for name, value in score_metrics(np.asarray(batch_scores), judgements).items():
        metrics.record(name, value, step=step)
