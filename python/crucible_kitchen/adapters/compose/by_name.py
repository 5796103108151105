"""One `DatasetStore` over several: each data set's name belongs to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crucible_kitchen.errors import DataError, did_you_mean
from crucible_kitchen.ports import BatchIterator, DatasetStore, Row


@dataclass(frozen=True)
class Owned:
    """A handle and the store that it is of."""

    store: DatasetStore
    dataset: Any


class ByNameDatasetStore(DatasetStore):
    """Asks, for each data set, the store that has it.

    Args:
        stores: name of a data set -> its store. They are not closed with this one.
    """

    def __init__(self, stores: Mapping[str, DatasetStore]) -> None:
        self._stores = dict(stores)

    def load_dataset(
        self, name: str, split: str = "train", limit: int | None = None, **options: Any
    ) -> Owned:
        """Open a data set; see `ports.DatasetStore.load_dataset`."""
        if name not in self._stores:
            advice = did_you_mean(name, self._stores)
            raise DataError(f"dataset_store: no data set {name!r}; {advice}")
        store = self._stores[name]
        return Owned(store, store.load_dataset(name, split, limit, **options))

    def get_split(self, dataset: Owned, split: str) -> Owned:
        """Another split, whole, of the data set a handle came from."""
        return Owned(dataset.store, dataset.store.get_split(dataset.dataset, split))

    def shuffle(self, dataset: Owned, seed: int = 0) -> Owned:
        """The same rows in another order."""
        return Owned(dataset.store, dataset.store.shuffle(dataset.dataset, seed=seed))

    def take(self, dataset: Owned, n: int) -> Owned:
        """The first `n` rows."""
        return Owned(dataset.store, dataset.store.take(dataset.dataset, n))

    def skip(self, dataset: Owned, n: int) -> Owned:
        """All but the first `n` rows."""
        return Owned(dataset.store, dataset.store.skip(dataset.dataset, n))

    def select(self, dataset: Owned, indices: Sequence[int]) -> Owned:
        """The rows at `indices`."""
        return Owned(dataset.store, dataset.store.select(dataset.dataset, indices))

    def to_list(self, dataset: Owned) -> list[Row]:
        """All rows."""
        return dataset.store.to_list(dataset.dataset)

    def iterate(self, dataset: Owned, batch_size: int) -> BatchIterator:
        """Rows in batches."""
        return dataset.store.iterate(dataset.dataset, batch_size)
