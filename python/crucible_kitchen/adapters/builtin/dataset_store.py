"""The table of built-in data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from crucible_kitchen.adapters.builtin import python_docs
from crucible_kitchen.adapters.rows import RowsDatasetStore, check_options, no_such_split
from crucible_kitchen.errors import DataError, did_you_mean
from crucible_kitchen.ports import Row

PREFIX: Final = "builtin:"

# Name -> what gives the rows of every split.
DATASETS: Final[Mapping[str, Callable[[], Mapping[str, Sequence[Row]]]]] = {
    "python-docs": python_docs.splits,
    "python-docs-preferences": python_docs.preference_splits,
}


class DatasetStore(RowsDatasetStore):
    """Data sets made from what is on this machine; ``builtin:`` may stand before their names."""

    def _read(self, name: str, split: str, options: Mapping[str, Any]) -> Sequence[Row]:
        check_options(options, ())
        known = DATASETS.get(name.removeprefix(PREFIX))
        if known is None:
            advice = did_you_mean(name.removeprefix(PREFIX), DATASETS)
            raise DataError(f"dataset_store: no built-in data set {name!r}; {advice}")
        splits = known()
        if split not in splits:
            raise no_such_split(name, split, list(splits))
        return splits[split]
