"""Turn rows into tokens and weights, and count the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Place
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer
from crucible_kitchen.types import Datum


class Prepared(NamedTuple):
    """What is trained and what is evaluated.

    Args:
        train_datums: at least one.
        eval_datums: of the held-out rows.
        steps_per_epoch: steps that see every row once.
        total_steps: steps of the whole run.
    """

    train_datums: list[Datum]
    eval_datums: list[Datum]
    steps_per_epoch: int
    total_steps: int


@stage
def prepare(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
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
    how: dict[str, Any] = {
        "train_on": train_on,
        "max_length": max_length,
        "truncation": truncation,
        "untrained": untrained,
    }
    train = data.prepare(train_rows, tokenizer, places=train_places, **how)
    metrics.record("train_rows", train.statistics.datums)
    metrics.record("truncated_rows", train.statistics.truncated)
    metrics.record("dropped_rows", train.statistics.dropped)
    held_out = []
    if held_out_rows:
        try:
            held_out = data.build_datums(held_out_rows, tokenizer, places=held_out_places, **how)
        except DataError as error:
            raise DataError(f"held-out rows: {error}") from error
        metrics.record("held_out_rows", len(held_out))
    sizes = [data.size_of(one) for one in train.datums]
    steps_per_epoch = len(
        data.StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    )
    total_steps = count_steps(steps_per_epoch, epochs, max_steps)
    return Prepared(train.datums, held_out, steps_per_epoch, total_steps)


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
