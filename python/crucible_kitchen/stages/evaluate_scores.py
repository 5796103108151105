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

from ._letters import agreement, letter_logprobs, letter_losses, letter_scores
from ._pairs import interleaved
from ._scores import Scores, calibration_error, score_losses, score_metrics


@stage(writes="eval_loss")
def evaluate_scores(
    session: Session,
    eval_pairs: Sequence[Pair],
    eval_judgements: Sequence[Judgement],
    step: int,
    batch_size: int,
    centering: float,
    comparator: bool,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> float | None:
    """The held-out loss, in the mean over pairs; None where none are held out.

    Args:
        comparator: the loss is the cross-entropy of the right letter, and a difference of scores
            the log odds of the better answer.
    Raises:
        CrucibleError: the loss is not finite.
    """
    if not eval_pairs:
        return None
    if comparator:
        said = letter_logprobs(eval_pairs, batch_size, session, training_client)
        scores, loss = letter_scores(said), float(letter_losses(said).mean())
        metrics.record("eval_agreement", agreement(said), step=step)
    else:
        scores = _scores(eval_pairs, 2 * batch_size, session, training_client)
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


def _scores(pairs: Sequence[Pair], size: int, session: Session, client: TrainingClient) -> Scores:
    datums = interleaved(pairs)
    futures = [
        client.score(session, datums[start : start + size]) for start in range(0, len(datums), size)
    ]
    return np.asarray([score for future in futures for score in future.result()])
