"""Direct preference optimization: pairs of answers, scored against the model as it started."""

from __future__ import annotations

from crucible_kitchen.graph import loop
from crucible_kitchen.stages import (
    assemble_pairs,
    assume_reference,
    dpo_forward_backward,
    evaluate_pairs,
    init_session,
    load_data,
    optim_step,
    prepare_held_out_pairs,
    prepare_pairs,
    record_preferences,
    reference_logprobs,
    resolve_model,
    resolve_reference,
    sample,
    save_samples,
)

from ._training import Training

_training = Training(
    "dpo",
    start=[load_data, resolve_model, init_session, resolve_reference],
    prepare=[prepare_pairs],
    held_out=[prepare_held_out_pairs],
    rows="pairs",
    step=[
        assemble_pairs.bind(batch="batches.item"),
        loop("micro", over="micro_batches")[dpo_forward_backward.bind(micro_batch="micro.item")],
        optim_step,
        record_preferences,
    ],
    evaluate=evaluate_pairs,
    show=sample.bind(held_out_rows="held_out_chats", writes="samples"),
    keep=save_samples,
    ask=[reference_logprobs],
    assume=[assume_reference],
)
dpo = _training.workflow()
dpo_calibration = _training.calibration()
