"""Turn rows into tokens and weights, and count the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Place
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer
from crucible_kitchen.types import Datum


class Prepared(NamedTuple):
    """What is trained.

    Args:
        train_datums: at least one.
        steps_per_epoch: steps that see every row once.
        total_steps: steps of the whole run.
    """

    train_datums: list[Datum]
    steps_per_epoch: int
    total_steps: int


@stage
def prepare(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    tokenizer: Tokenizer,
    train_on: str,
    max_length: int,
    truncation: str,
    untrained: str,
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    epochs: int | None,
    max_steps: int | None,
    *,
    metrics: Metrics,
) -> Prepared:
    """Rows as datums, by the model's own chat template.

    Raises:
        DataError: a row of an unknown form, or one without a trained token; it is named.
    """
    train = data.prepare(
        train_rows,
        tokenizer,
        train_on=train_on,
        max_length=max_length,
        truncation=truncation,
        untrained="drop" if untrained == "drop" else "error",
        places=train_places,
    )
    metrics.record("train_rows", train.statistics.datums)
    metrics.record("truncated_rows", train.statistics.truncated)
    metrics.record("dropped_rows", train.statistics.dropped)
    sizes = [data.size_of(one) for one in train.datums]
    steps_per_epoch = len(
        data.StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    )
    total_steps = count_steps(steps_per_epoch, epochs, max_steps)
    return Prepared(train.datums, steps_per_epoch, total_steps)


def count_steps(steps_per_epoch: int, epochs: int | None, max_steps: int | None) -> int:
    """Steps of a run: those of all epochs, but at most `max_steps`; None sets no bound.

    Raises:
        ValueError: neither bound is given.
    """
    bounds = [max_steps] if max_steps is not None else []
    if epochs is not None:
        bounds.append(steps_per_epoch * epochs)
    if not bounds:
        raise ValueError("prepare: epochs or max_steps must be given, got neither")
    return min(bounds)
