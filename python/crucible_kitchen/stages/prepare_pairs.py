"""Turn rows of preferences into pairs of datums, and count the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Pair, Place, Preference
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer

from .prepare import count_steps


class PreparedPairs(NamedTuple):
    """What is trained and what is evaluated.

    Args:
        train_pairs: at least one.
        eval_pairs: of the held-out rows.
        held_out_chats: held-out prompts with the chosen answer, for samples.
        steps_per_epoch: steps that see every pair once.
        total_steps: steps of the whole run.
    """

    train_pairs: list[Pair]
    eval_pairs: list[Pair]
    held_out_chats: list[Row]
    steps_per_epoch: int
    total_steps: int


@stage
def prepare_pairs(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
    ld_alpha: float | None,
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    epochs: int | None,
    max_steps: int | None,
    *,
    metrics: Metrics,
) -> PreparedPairs:
    """Rows as pairs of datums, by the model's own chat template.

    Raises:
        DataError: a row that is no preference, or whose answer cannot be kept whole; it is named.
    """
    how: dict[str, Any] = {
        "max_length": max_length,
        "truncation": truncation,
        "equal_answers": equal_answers,
    }

    def weighted(pairs: list[Pair]) -> list[Pair]:
        return pairs if ld_alpha is None else [data.desensitised(pair, ld_alpha) for pair in pairs]

    train = data.prepare_pairs(train_rows, tokenizer, places=train_places, **how)
    metrics.record("train_rows", len(train.pairs))
    metrics.record("truncated_rows", train.truncated)
    metrics.record("dropped_rows", train.dropped)
    eval_pairs: list[Pair] = []
    chats: list[Row] = []
    if held_out_rows:
        try:
            held_out = data.prepare_pairs(held_out_rows, tokenizer, places=held_out_places, **how)
        except DataError as error:
            raise DataError(f"held-out rows: {error}") from error
        eval_pairs, chats = weighted(held_out.pairs), [_chat(one) for one in held_out.preferences]
        metrics.record("held_out_rows", len(eval_pairs))
    sizes = [data.size_of(one) for one in train.pairs]
    steps_per_epoch = len(
        data.StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    )
    total_steps = count_steps(steps_per_epoch, epochs, max_steps)
    return PreparedPairs(weighted(train.pairs), eval_pairs, chats, steps_per_epoch, total_steps)


def _chat(preference: Preference) -> Row:
    return {"messages": [message.to_dict() for message in preference.chosen.messages]}
