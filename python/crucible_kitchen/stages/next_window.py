"""Read the next rows of a data set that is too large, or has no end, to be read at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import MixturePart, Place
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore, Row

from ._rows import paired, parts_of


class Window(NamedTuple):
    """The rows that are trained next.

    Args:
        train_rows: to be prepared as those of the first window.
        train_places: of each, its place in the training split.
        next_row: where the window after this one begins in the data set.
    """

    train_rows: list[Row]
    train_places: list[Place]
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
    next_row: int = 0,
    unmatched: str | None = None,
    *,
    dataset_store: DatasetStore,
    metrics: Metrics,
) -> Window:
    """The rows behind those of the last window; behind the last row, those of the first again.

    Where it stands is a number, not an open stream, so a run that goes on later finds its place.

    Args:
        held_out_places: rows of the first window that are never trained, if `eval_split` is None.
        next_row: 0 before the second window: the first one has been read by `load_data`.
        unmatched: see `load_data`; answers find their partners within a window.
    Raises:
        DataError: an answer with a label finds no partner; it is named.
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
    found = paired(rows, start, unmatched)
    if found.alone:
        metrics.record("unmatched_rows", found.alone)
    held_out = set(held_out_places) if eval_split is None else set()
    kept = [n for n, place in enumerate(found.places) if place not in held_out]
    metrics.record("window_start", start)
    return Window([found.rows[n] for n in kept], [found.places[n] for n in kept], start + len(rows))


def _rows(store: DatasetStore, loaded: Any, start: int, count: int) -> list[Row]:
    return store.to_list(store.take(store.skip(loaded, start), count))
