"""Apply the gradients of one step, at the rate of the schedule."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from crucible_kitchen.context import Metrics
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import AdamParams

from . import schedules
from ._memory import memory_used


class Stepped(NamedTuple):
    """Where the training stands.

    Args:
        step: optimizer steps taken.
        loss: of the rows of this step before it was taken, in nats per token.
    """

    step: int
    loss: float


@stage
def optim_step(
    session: Session,
    step: int,
    total_steps: int,
    batch_loss: float,
    batch_tokens: int,
    trained_tokens: int,
    batch_started: float,
    last_checkpoint: str | None,
    learning_rate: float,
    schedule: str,
    warmup: int | float,
    schedule_power: float | None,
    schedule_decay: int | float | None,
    min_learning_rate: float,
    weight_decay: float,
    adam_beta1: float,
    adam_beta2: float,
    adam_eps: float,
    grad_clip_norm: float,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> Stepped:
    """One AdamW step, with its metrics.

    Raises:
        CrucibleError: the loss or the gradients are not finite. A loss is checked before the step
            is taken, so that the weights are as they were.
    """
    number = step + 1
    metrics.record("loss", batch_loss, step=number)
    check_finite("loss", batch_loss, number, last_checkpoint)
    rate = schedules.learning_rate(
        step,
        total_steps,
        peak=learning_rate,
        schedule=schedule,
        warmup=warmup,
        power=schedule_power,
        decay=schedule_decay,
        least=min_learning_rate,
    )
    params = AdamParams(
        learning_rate=rate,
        beta1=adam_beta1,
        beta2=adam_beta2,
        eps=adam_eps,
        weight_decay=weight_decay,
        grad_clip_norm=grad_clip_norm,
    )
    result = training_client.optim_step(session, params).result()
    seconds = time.perf_counter() - batch_started
    metrics.record("grad_norm", result.grad_norm, step=number)
    check_finite("grad_norm", result.grad_norm, number, last_checkpoint)
    metrics.record("learning_rate", rate, step=number)
    metrics.record("tokens", batch_tokens, step=number)
    metrics.record("trained_tokens", trained_tokens, step=number)
    metrics.record("tokens_per_second", batch_tokens / max(seconds, 1e-9), step=number)
    metrics.record("memory_bytes", memory_used(), step=number)
    return Stepped(number, batch_loss)


def check_finite(name: str, value: float, step: int, last_checkpoint: str | None) -> None:
    """Refuse a value that says the training has left the numbers.

    Raises:
        CrucibleError: `value` is NaN or infinite; the message names the step and the checkpoint.
    """
    if math.isfinite(value):
        return
    kept = (
        f"the last good checkpoint is {last_checkpoint}"
        if last_checkpoint
        else "no checkpoint was saved before it (save_every=N saves one every N steps)"
    )
    raise CrucibleError(
        f"optim_step: {name} must be finite, got {value} at step {step}; {kept}. "
        "A lower learning_rate, a longer warmup or a smaller grad_clip_norm may help"
    )
