"""Measure loss, preference and calibration on pairs that are never trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement, Pair
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._pairs import interleaved
from ._scores import calibration_error, score_losses, score_metrics


@stage(writes="eval_loss")
def evaluate_scores(
    session: Session,
    eval_pairs: Sequence[Pair],
    eval_judgements: Sequence[Judgement],
    step: int,
    batch_size: int,
    centering: float,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> float | None:
    """The held-out loss, in the mean over pairs; None where none are held out.

    Raises:
        CrucibleError: the loss is not finite.
    """
    if not eval_pairs:
        return None
    datums, size = interleaved(eval_pairs), 2 * batch_size
    futures = [
        training_client.score(session, datums[start : start + size])
        for start in range(0, len(datums), size)
    ]
    scores = np.asarray([score for future in futures for score in future.result()])
    loss = float(score_losses(scores, eval_judgements, centering).mean())
    metrics.record("eval_loss", loss, step=step)
    for name, value in score_metrics(scores, eval_judgements).items():
        metrics.record(f"eval_{name}", value, step=step)
    error = calibration_error(scores, eval_judgements)
    if error is not None:
        metrics.record("eval_calibration_error", error, step=step)
    if not math.isfinite(loss):
        raise CrucibleError(f"evaluate_scores: eval_loss must be finite, got {loss} at step {step}")
    return loss
