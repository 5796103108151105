"""Add the gradients of one micro-batch of comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.data import Pair
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum, TensorData

from ._pairs import interleaved


@stage(writes="batch_loss")
def compare_forward_backward(
    micro_batch: Sequence[int],
    step_pairs: Sequence[int],
    train_pairs: Sequence[Pair],
    session: Session,
    batch_loss: float,
    *,
    training_client: TrainingClient,
) -> float:
    """The step's cross-entropy of the right letters so far, with this micro-batch's share added.

    Every pair is there in both orders, and counts as one of the step's pairs.
    """
    share = 1.0 / (2 * len(step_pairs))
    datums = [_weighed(d, share) for d in interleaved([train_pairs[n] for n in micro_batch])]
    result = training_client.forward_backward(session, datums).result()
    return batch_loss + result.metrics["loss:sum"]


def _weighed(datum: Datum, share: float) -> Datum:
    weights = TensorData(datum.loss_fn_inputs["weights"].numpy() * share)
    return Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": weights})
