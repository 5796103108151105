"""Measure loss and preference on pairs that are never trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement, Pair
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

from ._pairs import (
    LossOptions,
    Reference,
    Sums,
    answer_lengths,
    answer_sums,
    interleaved,
    pair_losses,
    preference_metrics,
    sums_of,
)


@stage(writes="eval_loss")
def evaluate_pairs(
    session: Session,
    eval_pairs: Sequence[Pair],
    eval_judgements: Sequence[Judgement],
    eval_reference: Reference,
    step: int,
    batch_size: int,
    loss_type: str | Mapping[str, float],
    beta: float,
    margin_weight: float,
    label_smoothing: float | None,
    discopop_tau: float,
    reward_mean: float,
    sft_weight: float,
    divergence: str,
    divergence_alpha: float | None,
    reference_path: str | None,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> float | None:
    """The held-out loss, in the mean over pairs; None where none are held out.

    Before the first step a model that is its own reference is not asked again.

    Raises:
        CrucibleError: the loss is not finite.
    """
    if not eval_pairs:
        return None
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
    datums = interleaved(eval_pairs)
    reference = sums_of(eval_reference, range(len(eval_pairs)))
    own = step == 0 and reference_path is None
    policy = reference if own else _policy(datums, 2 * batch_size, session, training_client)
    losses = pair_losses(policy, reference, answer_lengths(datums), eval_judgements, options)
    loss = float(losses.mean())
    metrics.record("eval_loss", loss, step=step)
    for name, value in preference_metrics(policy, reference, beta).items():
        metrics.record(f"eval_{name}", value, step=step)
    if not math.isfinite(loss):
        raise CrucibleError(f"evaluate_pairs: eval_loss must be finite, got {loss} at step {step}")
    return loss


def _policy(
    datums: Sequence[Datum], size: int, session: Session, training_client: TrainingClient
) -> Sums:
    chunks = [datums[start : start + size] for start in range(0, len(datums), size)]
    futures = [training_client.forward(session, chunk) for chunk in chunks]
    results = zip(chunks, futures, strict=True)
    return np.concatenate([answer_sums(chunk, future.result()) for chunk, future in results])
