"""Supervised fine-tuning: epochs of batches of micro-batches, evaluated on rows never trained."""

from __future__ import annotations

import math

from crucible_kitchen.graph import loop, when, workflow
from crucible_kitchen.stages import (
    assemble,
    close_session,
    evaluate,
    forward_backward,
    init_session,
    load_data,
    optim_step,
    order_batches,
    prepare,
    resolve_model,
    sample,
    save_adapter,
    save_checkpoint,
    save_samples,
)


def epochs(total_steps: int, steps_per_epoch: int) -> range:
    """As many passes over the rows as the steps need."""
    return range(math.ceil(total_steps / steps_per_epoch))


def should_evaluate(step: int, total_steps: int, eval_every: int) -> bool:
    """At every multiple of `eval_every` but the last step, which is evaluated anyway."""
    return eval_every > 0 and step % eval_every == 0 and step < total_steps


def should_save(step: int, save_every: int) -> bool:
    """At every multiple of `save_every`."""
    return save_every > 0 and step % save_every == 0


sft = workflow("sft")[
    load_data,
    resolve_model,
    init_session,
    prepare,
    evaluate.with_(name="evaluate_before"),
    sample.bind(writes="samples_before").with_(name="sample_before"),
    loop("epochs", over=epochs)[
        order_batches.bind(epoch="epochs.item"),
        loop("batches", over="epoch_batches")[
            assemble.bind(batch="batches.item"),
            loop("micro", over="micro_batches")[forward_backward.bind(micro_batch="micro.item")],
            optim_step,
            when(should_evaluate)[evaluate],
            when(should_save)[save_checkpoint],
        ],
    ],
    evaluate.with_(name="evaluate_after"),
    save_adapter,
    sample.bind(writes="samples_after").with_(name="sample_after"),
    save_samples,
].finally_[close_session]
