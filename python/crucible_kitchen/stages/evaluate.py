"""Measure the loss on rows that are never trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from crucible_kitchen.context import Metrics
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum


@stage(writes="eval_loss")
def evaluate(
    session: Session,
    eval_datums: Sequence[Datum],
    step: int,
    batch_size: int,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> float | None:
    """The held-out loss, in nats per trained token; None where no rows are held out.

    It is asked for with `forward`, which leaves no gradients behind.

    Raises:
        CrucibleError: the loss is not finite.
    """
    if not eval_datums:
        return None
    starts = range(0, len(eval_datums), batch_size)
    futures = [
        training_client.forward(session, eval_datums[start : start + batch_size])
        for start in starts
    ]
    total = sum(future.result().metrics["loss:sum"] for future in futures)
    loss = total / sum(weight_of(datum) for datum in eval_datums)
    metrics.record("eval_loss", loss, step=step)
    if not math.isfinite(loss):
        raise CrucibleError(f"evaluate: eval_loss must be finite, got {loss} at step {step}")
    return loss


def weight_of(datum: Datum) -> float:
    """The sum of a datum's weights."""
    return float(datum.loss_fn_inputs["weights"].numpy().sum(dtype=np.float64))
