"""Load the rows that are trained and those that are only evaluated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from crucible_kitchen.data import MixturePart, Place, mix
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
        train_places: of each, its place in the training split; in a mixture with the data set.
        held_out_rows: never trained; none where none were asked for.
        held_out_places: of each, its place in the split it is from.
    """

    train_rows: list[Row]
    train_places: list[Place]
    held_out_rows: list[Row]
    held_out_places: list[Place]


@stage
def load_data(
    dataset: str | Sequence[MixturePart],
    train_split: str,
    eval_split: str | None,
    eval_rows: int | None,
    seed: int,
    *,
    dataset_store: DatasetStore,
) -> Rows:
    """The rows of a data set or a mixture of them, and some that are held out.

    Args:
        dataset: a name or path that the store knows, or several with their weights; `data.mix` says
            how many rows of each are trained. Held-out rows are not weighted.
        train_split: the split to train.
        eval_split: where held-out rows come from; None takes them out of `train_split`.
        eval_rows: how many to hold out, if there are so many; None for 48, but at most a fifth of
            the rows they are taken from. 0 holds out none.
        seed: of their choice.
    Raises:
        DataError: no such data set or split, an unreadable row, or nothing left to train.
    """
    parts = [MixturePart(name=dataset)] if isinstance(dataset, str) else list(dataset)
    trained, others = [], []
    for part in parts:
        loaded = dataset_store.load_dataset(part.name, split=train_split)
        rows = dataset_store.to_list(loaded)
        trained.append(rows)
        others.append(rows if eval_split is None else _split(dataset_store, loaded, eval_split))
    # Rows are told by the data set and their place in it.
    candidates = [(part, row) for part, rows in enumerate(others) for row in range(len(rows))]
    chosen = _choose(len(candidates), eval_rows, seed)
    held_out = [candidates[place] for place in chosen]
    taken = set(held_out) if eval_split is None else set()
    left = [
        [row for row in range(len(trained[part])) if (part, row) not in taken]
        for part in range(len(parts))
    ]
    for part, rows_left in zip(parts, left, strict=True):
        if not rows_left:
            raise DataError(
                f"load_data: {part.name!r} has no row in {train_split!r} beside those that "
                f"eval_rows={eval_rows} holds out; lower eval_rows or name an eval_split"
            )
    mixed = mix([len(rows) for rows in left], [part.weight for part in parts], seed)
    train = [(part, left[part][row]) for part, row in mixed]

    def place(part: int, row: int) -> Place:
        return row if len(parts) == 1 else f"{row} of {parts[part].name}"

    return Rows(
        [trained[part][row] for part, row in train],
        [place(*where) for where in train],
        [others[part][row] for part, row in held_out],
        [place(*where) for where in held_out],
    )


def _split(store: DatasetStore, loaded: Any, split: str) -> list[Row]:
    return store.to_list(store.get_split(loaded, split))


def _choose(rows: int, count: int | None, seed: int) -> list[int]:
    """Places of the rows that are held out, in order."""
    size = min(_HELD_OUT, rows // _SHARE) if count is None else min(count, rows)
    return sorted(random.Random(seed).sample(range(rows), size))
