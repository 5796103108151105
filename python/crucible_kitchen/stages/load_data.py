"""Load the rows that are trained and those that are only evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import MixturePart
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore, Row

from ._rows import Made, Rows, Wanted, load_rows, paired, parts_of


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
    unmatched: str | None = None,
    *,
    dataset_store: DatasetStore,
    metrics: Metrics,
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
        unmatched: of preferences, what becomes of answers with a ``label`` that find no partner,
            ``error`` or ``drop``; pairs are made before any are held out, so that the answers to a
            prompt stay together. None: rows are left as they are.
    Raises:
        DataError: no such data set or split, an unreadable row, or nothing left to train.
    """
    parts = parts_of(dataset, dataset_options)
    most = min((n for n in (max_rows, window_rows) if n is not None), default=None)
    wanted = Wanted(parts, train_split, eval_split, eval_rows, most, seed)
    alone = 0

    def made_of(rows: list[Row]) -> Made:
        nonlocal alone
        found = paired(rows, 0, unmatched)
        alone += found.alone
        return found.rows, found.places

    loaded = load_rows(wanted, dataset_store, made_of)
    if alone:
        metrics.record("unmatched_rows", alone)
    return loaded
