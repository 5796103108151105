"""Read the next rows of a data set that is too large, or has no end, to be read at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import MixturePart, Place
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore, Row, Tokenizer
from crucible_kitchen.types import Datum

from ._rows import parts_of


class Window(NamedTuple):
    """The rows that are trained next.

    Args:
        train_datums: at least one.
        next_row: where the window after this one begins in the data set.
    """

    train_datums: list[Datum]
    next_row: int


@stage
def next_window(
    dataset: str | Sequence[MixturePart],
    dataset_options: Mapping[str, Any],
    train_split: str,
    eval_split: str | None,
    held_out_places: Sequence[Place],
    max_rows: int | None,
    window_rows: int | None,
    tokenizer: Tokenizer,
    train_on: str,
    max_length: int,
    truncation: str,
    untrained: str,
    next_row: int = 0,
    *,
    dataset_store: DatasetStore,
    metrics: Metrics,
) -> Window:
    """The rows behind those of the last window; behind the last row, those of the first again.

    Where it stands is a number, not an open stream, so a run that goes on later finds its place.

    Args:
        held_out_places: rows of the first window that are never trained, if `eval_split` is None.
        next_row: 0 before the second window: the first one has been read by `load_data`.
    Raises:
        DataError: a row cannot be used, which the message names; or a window has nothing to train.
    """
    assert window_rows is not None  # the workflow asks before it comes here
    (part,) = parts_of(dataset, dataset_options)
    start = next_row or window_rows
    loaded = dataset_store.load_dataset(
        part.name, split=train_split, limit=max_rows, **part.options
    )
    rows = _rows(dataset_store, loaded, start, window_rows)
    if not rows:
        start, rows = 0, _rows(dataset_store, loaded, 0, window_rows)
    held_out = set(held_out_places) if eval_split is None else set()
    kept = [n for n in range(len(rows)) if start + n not in held_out]
    try:
        prepared = data.prepare(
            [rows[n] for n in kept],
            tokenizer,
            train_on=train_on,
            max_length=max_length,
            truncation=truncation,
            untrained="drop" if untrained == "drop" else "error",
            places=[start + n for n in kept],
        )
    except DataError as error:
        raise DataError(f"rows {start} to {start + len(rows) - 1}: {error}") from error
    metrics.record("window_start", start)
    metrics.record("train_rows", prepared.statistics.datums)
    metrics.record("truncated_rows", prepared.statistics.truncated)
    metrics.record("dropped_rows", prepared.statistics.dropped)
    return Window(prepared.datums, start + len(rows))


def _rows(store: DatasetStore, loaded: Any, start: int, count: int) -> list[Row]:
    return store.to_list(store.take(store.skip(loaded, start), count))
