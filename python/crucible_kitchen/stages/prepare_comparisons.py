"""Turn rows of preferences into pairs of answers to score, and count the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement, Pair, Place, Preference
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer

from .prepare import count_steps


class PreparedComparisons(NamedTuple):
    """What is trained and what is evaluated.

    Args:
        train_pairs: at least one.
        train_judgements: one a pair.
        eval_pairs: of the held-out rows.
        eval_judgements: one a pair.
        eval_preferences: what the held-out rows say.
        steps_per_epoch: steps that see every pair once.
        total_steps: steps of the whole run.
    """

    train_pairs: list[Pair]
    train_judgements: list[Judgement]
    eval_pairs: list[Pair]
    eval_judgements: list[Judgement]
    eval_preferences: list[Preference]
    steps_per_epoch: int
    total_steps: int


@stage
def prepare_comparisons(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    epochs: int | None,
    max_steps: int | None,
    *,
    metrics: Metrics,
) -> PreparedComparisons:
    """Rows as pairs of whole answers, by the model's own chat template.

    Raises:
        DataError: a row that is no preference, or whose answer cannot be kept whole; it is named.
    """
    how: dict[str, Any] = {
        "max_length": max_length,
        "truncation": truncation,
        "equal_answers": equal_answers,
    }
    train = data.prepare_comparisons(train_rows, tokenizer, places=train_places, **how)
    metrics.record("train_rows", len(train.pairs))
    metrics.record("truncated_rows", train.truncated)
    metrics.record("dropped_rows", train.dropped)
    held_out = data.Comparisons([], [], [], 0, 0)
    if held_out_rows:
        try:
            held_out = data.prepare_comparisons(
                held_out_rows, tokenizer, places=held_out_places, **how
            )
        except DataError as error:
            raise DataError(f"held-out rows: {error}") from error
        metrics.record("held_out_rows", len(held_out.pairs))
    sizes = [data.size_of(pair) for pair in train.pairs]
    steps_per_epoch = len(
        data.StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    )
    return PreparedComparisons(
        train.pairs,
        train.judgements,
        held_out.pairs,
        held_out.judgements,
        held_out.preferences,
        steps_per_epoch,
        count_steps(steps_per_epoch, epochs, max_steps),
    )
