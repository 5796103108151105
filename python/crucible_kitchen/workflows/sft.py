"""Supervised fine-tuning: rows with answers, evaluated on rows never trained."""

from __future__ import annotations

from crucible_kitchen.graph import loop
from crucible_kitchen.stages import (
    assemble,
    evaluate,
    forward_backward,
    init_session,
    load_data,
    optim_step,
    prepare,
    prepare_held_out,
    resolve_model,
    sample,
    save_samples,
)

from ._training import Training

_training = Training(
    "sft",
    start=[load_data, resolve_model, init_session],
    prepare=[prepare],
    held_out=[prepare_held_out],
    rows="datums",
    step=[
        assemble.bind(batch="batches.item"),
        loop("micro", over="micro_batches")[forward_backward.bind(micro_batch="micro.item")],
        optim_step,
    ],
    evaluate=evaluate,
    show=sample.bind(writes="samples"),
    keep=save_samples,
)
sft = _training.workflow()
sft_calibration = _training.calibration()
