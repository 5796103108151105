"""End with the model of the best evaluation."""

from __future__ import annotations

from crucible_kitchen.context import Metrics
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient


@stage
def restore_best(
    session: Session,
    best_checkpoint: str,
    best_step: int,
    best_loss: float,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> None:
    """Put the weights back to where the held-out loss was lowest.

    Raises:
        PortError: the checkpoint cannot be read.
    """
    training_client.load_checkpoint(session, best_checkpoint)
    metrics.record("restored_step", best_step)
    metrics.record("restored_eval_loss", best_loss)
