"""Load the rows that are trained and those that are only evaluated."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore, Row

# Where the number of held-out rows is left to us: enough for a steady mean, a fifth at most.
_HELD_OUT: Final = 48
_SHARE: Final = 5


class Rows(NamedTuple):
    """Two sets of rows with nothing in common.

    Args:
        train_rows: at least one.
        train_places: of each, its place in the training split.
        held_out_rows: never trained; none where none were asked for.
        held_out_places: of each, its place in the split it is from.
    """

    train_rows: list[Row]
    train_places: list[int]
    held_out_rows: list[Row]
    held_out_places: list[int]


@stage
def load_data(
    dataset: str,
    train_split: str,
    eval_split: str | None,
    eval_rows: int | None,
    seed: int,
    *,
    dataset_store: DatasetStore,
) -> Rows:
    """The rows of a data set, and some that are held out.

    Args:
        dataset: a name or path that the store knows.
        train_split: the split to train.
        eval_split: where held-out rows come from; None takes them out of `train_split`.
        eval_rows: how many to hold out, if there are so many; None for 48, but at most a fifth of
            the rows they are taken from. 0 holds out none.
        seed: of their choice.
    Raises:
        DataError: no such data set or split, an unreadable row, or nothing left to train.
    """
    loaded = dataset_store.load_dataset(dataset, split=train_split)
    rows = dataset_store.to_list(loaded)
    others = rows if eval_split is None else _split(dataset_store, loaded, eval_split)
    held_out = _choose(len(others), eval_rows, seed)
    taken = set(held_out) if eval_split is None else set()
    train = [place for place in range(len(rows)) if place not in taken]
    if not train:
        raise DataError(
            f"load_data: {dataset!r} has {len(rows)} row(s) in {train_split!r}, and "
            f"eval_rows={eval_rows} holds out all of them; lower eval_rows or name an eval_split"
        )
    return Rows(
        [rows[place] for place in train],
        train,
        [others[place] for place in held_out],
        held_out,
    )


def _split(store: DatasetStore, loaded: Any, split: str) -> list[Row]:
    return store.to_list(store.get_split(loaded, split))


def _choose(rows: int, count: int | None, seed: int) -> list[int]:
    """Places of the rows that are held out, in order."""
    size = min(_HELD_OUT, rows // _SHARE) if count is None else min(count, rows)
    return sorted(random.Random(seed).sample(range(rows), size))
