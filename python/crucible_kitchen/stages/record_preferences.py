"""Say what the policy preferred in the step that was just taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crucible_kitchen.context import Metrics
from crucible_kitchen.graph import stage

from ._pairs import Reference, preference_metrics, sums_of


class Rewards(NamedTuple):
    """The rewards so far.

    Args:
        reward_mean: mean reward of all answers trained so far.
        rewards_seen: how many answers that is the mean of.
    """

    reward_mean: float
    rewards_seen: int


@stage
def record_preferences(
    step: int,
    step_pairs: Sequence[int],
    batch_policy: Sequence[float],
    train_reference: Reference,
    beta: float,
    reward_mean: float,
    rewards_seen: int,
    *,
    metrics: Metrics,
) -> Rewards:
    """Metrics of the step's pairs, from before it was taken, and the mean reward with them in it.

    The mean is that of finished steps, so that no micro-batch of a step sees another one.
    """
    policy, reference = np.asarray(batch_policy), sums_of(train_reference, step_pairs)
    for name, value in preference_metrics(policy, reference, beta).items():
        metrics.record(name, value, step=step)
    rewards = beta * (policy - reference)
    seen = rewards_seen + len(rewards)
    return Rewards(reward_mean + float((rewards - reward_mean).sum()) / seen, seen)
