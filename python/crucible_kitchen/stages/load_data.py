"""Load the rows that are trained and those that are only evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_kitchen.data import MixturePart
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore

from ._rows import Rows, Wanted, load_rows, parts_of


@stage
def load_data(
    dataset: str | Sequence[MixturePart],
    dataset_options: Mapping[str, Any],
    train_split: str,
    eval_split: str | None,
    eval_rows: int | None,
    max_rows: int | None,
    seed: int,
    window_rows: int | None = None,
    *,
    dataset_store: DatasetStore,
) -> Rows:
    """The rows of a data set or a mixture of them, and some that are held out.

    Args:
        dataset: a name or path that the store knows, or several with their weights; `data.mix` says
            how many rows of each are trained. Held-out rows are not weighted.
        dataset_options: what else the store is told of a data set that is alone.
        train_split: the split to train.
        eval_split: where held-out rows come from; None takes them out of `train_split`.
        eval_rows: how many to hold out, if there are so many; None for 48, but at most a fifth of
            the rows they are taken from. 0 holds out none.
        max_rows: most rows of a split, from its start: of a stream, no more are read.
        seed: of the choice.
        window_rows: rows that are read at a time; the first of them here, held-out ones among them.
    Raises:
        DataError: no such data set or split, an unreadable row, or nothing left to train.
    """
    parts = parts_of(dataset, dataset_options)
    most = min((n for n in (max_rows, window_rows) if n is not None), default=None)
    wanted = Wanted(parts, train_split, eval_split, eval_rows, most, seed)
    return load_rows(wanted, dataset_store, lambda rows: (rows, range(len(rows))))
