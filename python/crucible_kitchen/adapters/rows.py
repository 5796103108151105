"""Data sets that fit in memory: all of a `DatasetStore` but where the rows come from."""

from __future__ import annotations

import operator
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crucible_kitchen.errors import ConfigError, DataError, did_you_mean
from crucible_kitchen.ports import BatchIterator, DatasetStore, Row


@dataclass(frozen=True)
class Rows:
    """A handle: some rows of one split.

    Args:
        name: the data set's name, for messages.
        split: which split the rows are of.
        rows: the rows, which nobody changes.
        reload: gives the whole of any split of the same data set, or raises `DataError`.
    """

    name: str
    split: str
    rows: Sequence[Row]
    reload: Callable[[str], Rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, split={self.split!r}, rows={len(self.rows)})"


class RowBatches:
    """A `BatchIterator` over rows in memory."""

    def __init__(self, rows: Sequence[Row], batch_size: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._position = 0

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        if self._position >= len(self._rows):
            raise StopIteration
        batch = [dict(r) for r in self._rows[self._position : self._position + self._batch_size]]
        self._position += len(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, plain enough for JSON."""
        return {"position": self._position, "rows": len(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken.

        Raises:
            DataError: it was taken over another number of rows.
        """
        position, count = state.get("position"), state.get("rows")
        if count != len(self._rows) or not isinstance(position, int) or not 0 <= position <= count:
            raise DataError(
                f"dataset_store: state must be of an iterator over {len(self._rows)} rows, "
                f"got {state}"
            )
        self._position = position


class RowsDatasetStore(DatasetStore):
    """A `DatasetStore` over `Rows`; a subclass says how a split is read."""

    def load_dataset(
        self, name: str, split: str = "train", limit: int | None = None, **options: Any
    ) -> Rows:
        """Open a split of a data set; see `DatasetStore.load_dataset`."""
        if limit is not None:
            whole_number("limit", limit, least=1)

        def reload(wanted: str) -> Rows:
            rows = self._read(name, wanted, options)
            if not rows:
                raise DataError(f"dataset_store: {name!r} has no rows in split {wanted!r}")
            return Rows(name, wanted, rows, reload)

        loaded = reload(split)
        return loaded if limit is None else self.take(loaded, limit)

    @abstractmethod
    def _read(self, name: str, split: str, options: Mapping[str, Any]) -> Sequence[Row]:
        """All rows of a split.

        Raises:
            ConfigError: an unknown option.
            DataError: no such data set or split, or an unreadable row.
        """

    def get_split(self, dataset: Rows, split: str) -> Rows:
        """Another split, whole, of the data set a handle came from."""
        return dataset.reload(split)

    def shuffle(self, dataset: Rows, seed: int = 0) -> Rows:
        """The same rows in an order that depends only on `seed` and their number."""
        order = list(range(len(dataset)))
        random.Random(seed).shuffle(order)
        return self.select(dataset, order)

    def take(self, dataset: Rows, n: int) -> Rows:
        """The first `n` rows."""
        return replace(dataset, rows=dataset.rows[: whole_number("n", n)])

    def skip(self, dataset: Rows, n: int) -> Rows:
        """All but the first `n` rows."""
        return replace(dataset, rows=dataset.rows[whole_number("n", n) :])

    def select(self, dataset: Rows, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        for index in indices:
            if not 0 <= index < len(dataset):
                raise IndexError(
                    f"select: indices must be in [0, {len(dataset)}) for {dataset!r}, got {index}"
                )
        return replace(dataset, rows=[dataset.rows[index] for index in indices])

    def to_list(self, dataset: Rows) -> list[Row]:
        """All rows, copied, so that a caller may change them."""
        return [dict(row) for row in dataset.rows]

    def iterate(self, dataset: Rows, batch_size: int) -> BatchIterator:
        """Rows in batches; the last one may be smaller."""
        return RowBatches(dataset.rows, whole_number("batch_size", batch_size, least=1))


def without_nulls(row: Mapping[str, Any]) -> Row:
    """A row of an Arrow table without the fields that its structs have only for other rows.

    All structs of a column have the fields of all of them: a call of a tool with the argument ``a``
    gets a null for the ``b`` of another call. Columns keep their nulls, and lists theirs.
    """
    return {column: _filled(value) for column, value in row.items()}


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options of `load_dataset` that an adapter does not know.

    Raises:
        ConfigError: one of them is unknown.
    """
    for option in options:
        if option not in known:
            advice = did_you_mean(option, known) or "this adapter has no options"
            raise ConfigError(f"load_dataset: unknown option {option!r}; {advice}")


def no_such_split(name: str, split: str, known: Sequence[str], advice: str = "") -> DataError:
    """The error for a split that a data set lacks."""
    message = f"dataset_store: {name!r} has no split {split!r}; it has {', '.join(known)}"
    return DataError(f"{message}; {advice}" if advice else message)


def whole_number(argument: str, value: Any, least: int = 0) -> int:
    """`value` as a whole number of at least `least`.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"dataset_store: {argument} must be a whole number, got {value!r}"
        ) from None
    if number < least:
        raise ValueError(f"dataset_store: {argument} must be at least {least}, got {number}")
    return number
