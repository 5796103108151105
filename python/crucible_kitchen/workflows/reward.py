"""Reward modelling: pairs of answers, of which the better one is to get the higher score."""

from __future__ import annotations

from crucible_kitchen.graph import loop, when, workflow
from crucible_kitchen.stages import (
    assemble_pairs,
    check_stop,
    close_session,
    evaluate_scores,
    init_session,
    load_pairs,
    optim_step,
    order_batches,
    prepare_comparisons,
    record_scores,
    register_model,
    resolve_model,
    restore_best,
    reward_forward_backward,
    save_adapter,
    save_checkpoint,
    save_scored_samples,
    score_samples,
    track_best,
)

from .sft import epochs, goes_on, not_evaluated, should_evaluate, should_save, was_better

_assemble = assemble_pairs.bind(batch="batches.item", writes={"batch_policy": "batch_scores"})

reward = workflow("reward")[
    load_pairs,
    resolve_model,
    init_session.bind(scalar_head=True),
    prepare_comparisons,
    evaluate_scores.with_(name="evaluate_before"),
    track_best.with_(name="first_best"),
    score_samples.bind(writes="scores_before").with_(name="score_before"),
    loop("epochs", over=epochs, while_=goes_on)[
        order_batches.bind(epoch="epochs.item", train_datums="train_pairs"),
        loop("batches", over="epoch_batches", while_=goes_on)[
            _assemble,
            loop("micro", over="micro_batches")[
                reward_forward_backward.bind(micro_batch="micro.item")
            ],
            optim_step,
            record_scores,
            when(should_evaluate)[evaluate_scores, track_best],
            when(should_save)[save_checkpoint],
            check_stop,
        ],
    ],
    when(not_evaluated)[
        evaluate_scores.with_(name="evaluate_after"),
        track_best.with_(name="last_best"),
    ],
    when(was_better)[restore_best],
    save_adapter,
    register_model,
    score_samples.bind(writes="scores_after").with_(name="score_after"),
    save_scored_samples,
].finally_[close_session]
