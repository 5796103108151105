"""Turn rows of preferences into pairs of datums, and count the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement, Pair, Place
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer

from ._pairs import read_pairs
from .prepare import count_steps


class PreparedPairs(NamedTuple):
    """What is trained.

    Args:
        train_pairs: at least one.
        train_judgements: one a pair.
        steps_per_epoch: steps that see every pair once.
        total_steps: steps of the whole run.
    """

    train_pairs: list[Pair]
    train_judgements: list[Judgement]
    steps_per_epoch: int
    total_steps: int


@stage
def prepare_pairs(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
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
    ld_alpha: float | None = None,
    scored: bool = False,
    comparator: bool = False,
    *,
    metrics: Metrics,
) -> PreparedPairs:
    """Rows as pairs of datums, by the model's own chat template.

    Args:
        ld_alpha: weight of tokens beyond the length of the other answer.
        scored: whole answers, for a model that scores them.
        comparator: both answers in one prompt instead, in both orders.
    Raises:
        DataError: a row that is no preference, or whose answer cannot be kept whole; it is named.
    """
    train = read_pairs(
        train_rows,
        train_places,
        tokenizer,
        scored=scored,
        comparator=comparator,
        ld_alpha=ld_alpha,
        max_length=max_length,
        truncation=truncation,
        equal_answers=equal_answers,
    )
    metrics.record("train_rows", len(train.pairs))
    metrics.record("truncated_rows", train.truncated)
    metrics.record("dropped_rows", train.dropped)
    sizes = [data.size_of(pair) for pair in train.pairs]
    steps_per_epoch = len(
        data.StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    )
    total_steps = count_steps(steps_per_epoch, epochs, max_steps)
    return PreparedPairs(train.pairs, train.judgements, steps_per_epoch, total_steps)
