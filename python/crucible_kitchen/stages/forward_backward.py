"""Add the gradients of one micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum


@stage(writes="batch_loss")
def forward_backward(
    micro_batch: Sequence[Datum],
    session: Session,
    batch_loss: float,
    *,
    training_client: TrainingClient,
) -> float:
    """The step's loss so far, in nats per token, with this micro-batch's share added."""
    result = training_client.forward_backward(session, micro_batch).result()
    return batch_loss + result.metrics["loss:sum"]
