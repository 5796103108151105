"""Reward modelling: pairs of answers, of which the better one is to get the higher score."""

from __future__ import annotations

from crucible_kitchen.graph import loop, when
from crucible_kitchen.stages import (
    assemble_pairs,
    compare_forward_backward,
    evaluate_scores,
    init_session,
    load_data,
    optim_step,
    prepare_held_out_pairs,
    prepare_pairs,
    record_scores,
    resolve_model,
    reward_forward_backward,
    save_scored_samples,
    score_samples,
)

from ._training import Training

_assemble = assemble_pairs.bind(batch="batches.item", writes={"batch_policy": "batch_scores"})


def gives_scores(comparator: bool) -> bool:
    """Whether a scalar head is trained, and not a model that says which answer is better."""
    return not comparator


_training = Training(
    "reward",
    start=[load_data, resolve_model, init_session.bind(scored=True)],
    prepare=[prepare_pairs.bind(scored=True)],
    held_out=[prepare_held_out_pairs.bind(scored=True)],
    rows="pairs",
    step=[
        _assemble,
        loop("micro", over="micro_batches")[
            when(gives_scores)[reward_forward_backward.bind(micro_batch="micro.item")].otherwise[
                compare_forward_backward.bind(micro_batch="micro.item")
            ],
        ],
        optim_step,
        when(gives_scores)[record_scores],
    ],
    evaluate=evaluate_scores,
    show=score_samples,
    keep=save_scored_samples,
)
reward = _training.workflow()
reward_calibration = _training.calibration()
