"""Load rows of preferences, and put single answers with a label together into such rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import MixturePart, pair_up
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import DatasetStore, Row

from ._rows import Made, Rows, Wanted, load_rows, parts_of


@stage
def load_pairs(
    dataset: str | Sequence[MixturePart],
    dataset_options: Mapping[str, Any],
    train_split: str,
    eval_split: str | None,
    eval_rows: int | None,
    max_rows: int | None,
    unmatched: str,
    seed: int,
    *,
    dataset_store: DatasetStore,
    metrics: Metrics,
) -> Rows:
    """As `load_data`, with rows of ``prompt``, ``completion`` and ``label`` made into pairs.

    Pairs are made before any are held out, so that the answers to a prompt stay together.

    Args:
        unmatched: ``error`` or ``drop`` prompts whose answers are all good, or all bad.
    Raises:
        DataError: as `load_data`, or an answer that finds no partner; it is named.
    """
    alone = 0

    def paired(rows: list[Row]) -> Made:
        nonlocal alone
        found = pair_up(rows, unmatched=unmatched)
        alone += found.alone
        return found.rows, found.places

    parts = parts_of(dataset, dataset_options)
    wanted = Wanted(parts, train_split, eval_split, eval_rows, max_rows, seed)
    loaded = load_rows(wanted, dataset_store, paired)
    if alone:
        metrics.record("unmatched_rows", alone)
    return loaded
