"""Add the gradients of one micro-batch of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from crucible_kitchen.data import Judgement, Pair
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

from ._pairs import (
    LossOptions,
    Reference,
    answer_lengths,
    answer_sums,
    interleaved,
    pair_losses,
    sums_of,
)

if TYPE_CHECKING:
    from torch import Tensor


class PairsDone(NamedTuple):
    """What the micro-batches of a step have given so far.

    Args:
        batch_loss: their share of the step's mean loss per pair.
        batch_policy: log probabilities of their answers, chosen and rejected in turn, in nats.
    """

    batch_loss: float
    batch_policy: list[float]


@stage
def dpo_forward_backward(
    micro_batch: Sequence[int],
    step_pairs: Sequence[int],
    train_pairs: Sequence[Pair],
    train_judgements: Sequence[Judgement],
    train_reference: Reference,
    session: Session,
    batch_loss: float,
    batch_policy: list[float],
    loss_type: str | Mapping[str, float],
    beta: float,
    margin_weight: float,
    label_smoothing: float | None,
    discopop_tau: float,
    reward_mean: float,
    sft_weight: float,
    divergence: str,
    divergence_alpha: float | None,
    *,
    training_client: TrainingClient,
) -> PairsDone:
    """The step's loss so far, with this micro-batch's share added.

    The share is divided by the pairs of the whole step, so that the gradients are those of the mean
    over its pairs, however they are cut.
    """
    options = LossOptions(
        loss_type,
        beta,
        margin_weight,
        label_smoothing,
        discopop_tau,
        reward_mean,
        sft_weight,
        divergence,
        divergence_alpha,
    )
    datums = interleaved([train_pairs[place] for place in micro_batch])
    judgements = [train_judgements[place] for place in micro_batch]
    reference, lengths = sums_of(train_reference, micro_batch), answer_lengths(datums)

    def loss(
        given: Sequence[Datum], logprobs: Sequence[Tensor]
    ) -> tuple[Tensor, Mapping[str, float]]:
        from crucible_kitchen import ops

        weights = [datum.loss_fn_inputs["weights"].torch() for datum in given]
        policy = ops.answer_logprobs(logprobs, weights)
        losses = pair_losses(policy, reference, lengths, judgements, options)
        return losses.sum() / len(step_pairs), {}

    result = training_client.forward_backward_custom(session, datums, loss).result()
    policy = answer_sums(datums, result).tolist()
    return PairsDone(batch_loss + result.metrics["loss:sum"], [*batch_policy, *policy])
