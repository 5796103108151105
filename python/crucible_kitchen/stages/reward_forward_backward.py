"""Add the gradients of one micro-batch of scored pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from crucible_kitchen.data import Judgement, Pair
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

from ._pairs import interleaved
from ._scores import score_losses

if TYPE_CHECKING:
    from torch import Tensor


class PairsScored(NamedTuple):
    """What the micro-batches of a step have given so far.

    Args:
        batch_loss: their share of the step's mean loss per pair.
        batch_scores: of their answers, chosen and rejected in turn.
    """

    batch_loss: float
    batch_scores: list[float]


@stage
def reward_forward_backward(
    micro_batch: Sequence[int],
    step_pairs: Sequence[int],
    train_pairs: Sequence[Pair],
    train_judgements: Sequence[Judgement],
    session: Session,
    batch_loss: float,
    batch_scores: list[float],
    centering: float,
    *,
    training_client: TrainingClient,
) -> PairsScored:
    """The step's loss so far, with this micro-batch's share added.

    The share is divided by the pairs of the whole step, so that the gradients are those of the mean
    over its pairs, however they are cut.
    """
    judgements = [train_judgements[place] for place in micro_batch]

    def loss(
        datums: Sequence[Datum], scores: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, float]]:
        losses = score_losses(scores, judgements, centering)
        return losses.sum() / len(step_pairs), {}

    datums = interleaved([train_pairs[place] for place in micro_batch])
    result = training_client.forward_backward_custom(session, datums, loss).result()
    scores = [output["score"].numpy().item() for output in result.loss_fn_outputs]
    return PairsScored(batch_loss + result.metrics["loss:sum"], [*batch_scores, *scores])
