"""Supervised fine-tuning: epochs of batches of micro-batches, evaluated on rows never trained."""

from __future__ import annotations

import math
from itertools import count

from crucible_kitchen.graph import loop, when, workflow
from crucible_kitchen.stages import (
    assemble,
    check_stop,
    close_session,
    evaluate,
    forward_backward,
    init_session,
    load_data,
    next_window,
    optim_step,
    order_batches,
    prepare,
    register_model,
    resolve_model,
    restore_best,
    sample,
    save_adapter,
    save_checkpoint,
    save_samples,
    track_best,
)


def epochs(
    total_steps: int, steps_per_epoch: int, window_rows: int | None = None
) -> range | count[int]:
    """As many passes over the rows as the steps need; nobody knows how many windows they need."""
    if window_rows is not None:
        return count()
    return range(math.ceil(total_steps / steps_per_epoch))


def should_evaluate(step: int, total_steps: int, eval_every: int) -> bool:
    """At every multiple of `eval_every` but the last step, which is evaluated anyway."""
    return eval_every > 0 and step % eval_every == 0 and step < total_steps


def should_save(step: int, save_every: int) -> bool:
    """At every multiple of `save_every`."""
    return save_every > 0 and step % save_every == 0


def goes_on(step: int, total_steps: int, stop_reason: str) -> bool:
    """Until the last step, or until there is a reason to stop."""
    return step < total_steps and not stop_reason


def reads_on(step: int, total_steps: int, stop_reason: str, window_rows: int | None = None) -> bool:
    """Whether the rows come in windows, and another one is needed."""
    return window_rows is not None and goes_on(step, total_steps, stop_reason)


def not_evaluated(step: int, evaluated_step: int) -> bool:
    """Whether steps were taken since the last evaluation, which early stopping may have ended."""
    return evaluated_step < step


def was_better(save_best: bool, step: int, best_step: int) -> bool:
    """Whether an earlier model is kept that did better than the last."""
    return save_best and best_step < step


sft = workflow("sft")[
    load_data,
    resolve_model,
    init_session,
    prepare,
    evaluate.with_(name="evaluate_before"),
    track_best.with_(name="first_best"),
    sample.bind(writes="samples_before").with_(name="sample_before"),
    loop("epochs", over=epochs, while_=goes_on)[
        order_batches.bind(epoch="epochs.item"),
        loop("batches", over="epoch_batches", while_=goes_on)[
            assemble.bind(batch="batches.item"),
            loop("micro", over="micro_batches")[forward_backward.bind(micro_batch="micro.item")],
            optim_step,
            when(should_evaluate)[evaluate, track_best],
            when(should_save)[save_checkpoint],
            check_stop,
        ],
        when(reads_on)[next_window],
    ],
    when(not_evaluated)[
        evaluate.with_(name="evaluate_after"),
        track_best.with_(name="last_best"),
    ],
    when(was_better)[restore_best],
    save_adapter,
    register_model,
    sample.bind(writes="samples_after").with_(name="sample_after"),
    save_samples,
].finally_[close_session]
