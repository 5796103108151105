"""What the stages that load data share: rows of one data set or several, and some held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from crucible_kitchen.data import MixturePart, Place, mix, pair_up
from crucible_kitchen.data.unpaired import PairedUp
from crucible_kitchen.errors import DataError
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


class Wanted(NamedTuple):
    """Which rows a run asks for.

    Args:
        parts: the data sets.
        train_split: the split to train.
        eval_split: where held-out rows come from; None takes them out of `train_split`.
        eval_rows: how many to hold out, if there are so many; None for 48, but at most a fifth of
            the rows they are taken from.
        max_rows: most rows of a split, from its start; None for all.
        seed: of the choice.
    """

    parts: list[MixturePart]
    train_split: str
    eval_split: str | None
    eval_rows: int | None
    max_rows: int | None
    seed: int


Made = tuple[Sequence[Row], Sequence[Place]]
"""Rows, and the place of each in its split."""


def parts_of(dataset: str | Sequence[MixturePart], options: Mapping[str, Any]) -> list[MixturePart]:
    """The data sets of a configuration; options of its own belong to a data set alone."""
    if isinstance(dataset, str):
        return [MixturePart(name=dataset, options=dict(options))]
    return list(dataset)


def paired(rows: list[Row], start: int, unmatched: str | None) -> PairedUp:
    """Rows with those that have a ``label`` made into pairs; as they are, if `unmatched` is None.

    Args:
        start: place of the first of them in its split.
    Raises:
        DataError: an answer finds no partner; it is named.
    """
    if unmatched is None:
        return PairedUp(rows, list(range(start, start + len(rows))), 0)
    return pair_up(rows, start=start, unmatched=unmatched)


def load_rows(wanted: Wanted, store: DatasetStore, made_of: Callable[[list[Row]], Made]) -> Rows:
    """The rows of some data sets, mixed by their weights, and some that are held out.

    Args:
        made_of: what to make of the rows of a split before any are held out.
    Raises:
        DataError: no such data set or split, an unreadable row, or nothing left to train.
    """
    trained: list[Made] = []
    others: list[Made] = []
    for part in wanted.parts:
        loaded = store.load_dataset(
            part.name, split=wanted.train_split, limit=wanted.max_rows, **part.options
        )
        trained.append(made_of(store.to_list(loaded)))
        if wanted.eval_split is None:
            others.append(trained[-1])
        else:
            split = store.get_split(loaded, wanted.eval_split)
            if wanted.max_rows is not None:
                split = store.take(split, wanted.max_rows)
            others.append(made_of(store.to_list(split)))
    # Rows are told by the data set and their number in it.
    candidates = [(part, row) for part, (rows, _) in enumerate(others) for row in range(len(rows))]
    chosen = [candidates[n] for n in _choose(len(candidates), wanted.eval_rows, wanted.seed)]
    left = _left(wanted, trained, set(chosen) if wanted.eval_split is None else set())
    weights = [part.weight for part in wanted.parts]
    mixed = mix([len(rows) for rows in left], weights, wanted.seed)
    train = [(part, left[part][row]) for part, row in mixed]
    names = [part.name for part in wanted.parts]
    return Rows(*_taken(train, trained, names), *_taken(chosen, others, names))


def _left(wanted: Wanted, trained: list[Made], taken: set[tuple[int, int]]) -> list[list[int]]:
    """The rows of each data set that are not held out."""
    left = []
    for part, (rows, _) in enumerate(trained):
        left.append([row for row in range(len(rows)) if (part, row) not in taken])
        if not left[-1]:
            raise DataError(
                f"load_data: {wanted.parts[part].name!r} has no row in {wanted.train_split!r} "
                f"beside those that eval_rows={wanted.eval_rows} holds out; lower eval_rows or "
                "name an eval_split"
            )
    return left


def _taken(
    picked: list[tuple[int, int]], made: list[Made], names: list[str]
) -> tuple[list[Row], list[Place]]:
    rows = [made[part][0][row] for part, row in picked]
    places = [made[part][1][row] for part, row in picked]
    if len(made) == 1:
        return rows, places
    return rows, [f"{p} of {names[part]}" for p, (part, _) in zip(places, picked, strict=True)]


def _choose(rows: int, count: int | None, seed: int) -> list[int]:
    """Places of the rows that are held out, in order."""
    size = min(_HELD_OUT, rows // _SHARE) if count is None else min(count, rows)
    return sorted(random.Random(seed).sample(range(rows), size))
