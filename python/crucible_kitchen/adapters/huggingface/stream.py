"""A data set that is read as it is needed: the streaming handle of `DatasetStore`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from crucible_kitchen.adapters.rows import without_nulls
from crucible_kitchen.errors import DataError
from crucible_kitchen.ports import Row


@dataclass(frozen=True)
class Stream:
    """A handle: rows of one split that nobody has read yet; how many there are is not known.

    Args:
        name: the data set's name, for messages.
        split: which split the rows are of.
        dataset: a `datasets.IterableDataset`.
        reload: gives the whole of any split of the same data set, or raises `DataError`.
        reading: turns the errors of reading a row into ours.
    """

    name: str
    split: str
    dataset: Any
    reload: Callable[[str], Any]
    reading: Callable[[], AbstractContextManager[None]]

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, split={self.split!r})"

    def taken(self, n: int) -> Stream:
        """The first `n` rows."""
        return replace(self, dataset=self.dataset.take(n))

    def skipped(self, n: int) -> Stream:
        """All but the first `n` rows."""
        return replace(self, dataset=self.dataset.skip(n))

    def shuffled(self, seed: int, buffer_size: int) -> Stream:
        """The rows in the order in which they leave a buffer that is drawn from at random."""
        return replace(self, dataset=self.dataset.shuffle(seed=seed, buffer_size=buffer_size))

    def rows(self) -> Iterator[Row]:
        """Every row, read as it is asked for."""
        with self.reading():
            yield from map(without_nulls, self.dataset)


class StreamBatches:
    """A `BatchIterator` over a stream."""

    def __init__(self, stream: Stream, batch_size: int) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._position = 0
        self._rows = stream.rows()

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        batch = list(itertools.islice(self._rows, self._batch_size))
        if not batch:
            raise StopIteration
        self._position += len(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, plain enough for JSON."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken.

        The rows before it are read again and passed over: the library's own state would lose those
        that wait in a shuffle buffer.

        Raises:
            DataError: it is no state of such an iterator.
        """
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise DataError(f"dataset_store: state must hold a position, got {state}")
        self._position = position
        self._rows = itertools.islice(self._stream.rows(), position, None)
