"""Go on as if the frozen model had been asked, and say how much it would have to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen.data import Pair, StepOrder, size_of
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient

from ._pairs import Reference
from .reference_logprobs import Answers, pairs_to_ask, reference_config


class Assumed(NamedTuple):
    """A reference to measure time with, and nothing else.

    Args:
        train_reference, eval_reference: 0 for every answer.
        reward_mean: 0.
        rewards_seen: 0.
        reference_tokens: tokens of the answers, with their prompts, that a run would ask for.
    """

    train_reference: Reference
    eval_reference: Reference
    reward_mean: float
    rewards_seen: int
    reference_tokens: int


@stage
def assume_reference(
    session: Session,
    train_pairs: Sequence[Pair],
    eval_pairs: Sequence[Pair],
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    total_steps: int,
    reference_path: str | None,
    window_rows: int | None,
    *,
    training_client: TrainingClient,
) -> Assumed:
    """What `reference_logprobs` would ask for, without asking."""
    sizes = [size_of(pair) for pair in train_pairs]
    steps = StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    places = pairs_to_ask(steps, total_steps, window_rows)
    wanted = [*(train_pairs[place] for place in places), *eval_pairs]
    config = reference_config(session.config, reference_path)
    asked = Answers(wanted, config, training_client).missing.values()
    tokens = sum(datum.model_input.length for datum in asked)
    none = (0.0, 0.0)
    return Assumed(
        dict.fromkeys(range(len(train_pairs)), none),
        dict.fromkeys(range(len(eval_pairs)), none),
        0.0,
        0,
        tokens,
    )
