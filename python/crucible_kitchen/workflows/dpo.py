"""Direct preference optimization: pairs of answers, scored against the model as it started."""

from __future__ import annotations

from crucible_kitchen.graph import loop, when, workflow
from crucible_kitchen.stages import (
    assemble_pairs,
    check_stop,
    close_session,
    dpo_forward_backward,
    evaluate_pairs,
    init_session,
    load_pairs,
    optim_step,
    order_batches,
    prepare_pairs,
    record_preferences,
    reference_logprobs,
    register_model,
    resolve_model,
    resolve_reference,
    restore_best,
    sample,
    save_adapter,
    save_checkpoint,
    save_samples,
    track_best,
)

from .sft import epochs, goes_on, not_evaluated, should_evaluate, should_save, was_better

_sample = sample.bind(held_out_rows="held_out_chats")

dpo = workflow("dpo")[
    load_pairs,
    resolve_model,
    init_session,
    prepare_pairs,
    resolve_reference,
    reference_logprobs,
    evaluate_pairs.with_(name="evaluate_before"),
    track_best.with_(name="first_best"),
    _sample.bind(writes="samples_before").with_(name="sample_before"),
    loop("epochs", over=epochs, while_=goes_on)[
        order_batches.bind(epoch="epochs.item", train_datums="train_pairs"),
        loop("batches", over="epoch_batches", while_=goes_on)[
            assemble_pairs.bind(batch="batches.item"),
            loop("micro", over="micro_batches")[
                dpo_forward_backward.bind(micro_batch="micro.item")
            ],
            optim_step,
            record_preferences,
            when(should_evaluate)[evaluate_pairs, track_best],
            when(should_save)[save_checkpoint],
            check_stop,
        ],
    ],
    when(not_evaluated)[
        evaluate_pairs.with_(name="evaluate_after"),
        track_best.with_(name="last_best"),
    ],
    when(was_better)[restore_best],
    save_adapter,
    register_model,
    _sample.bind(writes="samples_after").with_(name="sample_after"),
    save_samples,
].finally_[close_session]
