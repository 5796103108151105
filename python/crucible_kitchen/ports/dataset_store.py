"""The `dataset_store` port: rows to learn from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

from .base import Port

Row = dict[str, Any]


class BatchIterator(Protocol):
    """Batches of rows in order, with a place that can be saved and taken up again."""

    def __iter__(self) -> Iterator[list[Row]]: ...

    def __next__(self) -> list[Row]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, plain enough for JSON."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken, over the same rows and batch size."""
        ...


class DatasetStore(Port):
    """Loads data sets. What `load_dataset` gives is a handle, opaque to stages and immutable."""

    name: ClassVar[str] = "dataset_store"
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def load_dataset(
        self, name: str, split: str = "train", limit: int | None = None, **options: Any
    ) -> Any:
        """Open a data set.

        Args:
            name: a path, a hub name, or a name the adapter knows.
            split: which part of it.
            limit: at most this many rows, from the start.
            options: what else the adapter takes.
        Raises:
            ConfigError: an unknown option.
            DataError: no such data set or split, an unreadable row (named), or no rows at all.
        """

    @abstractmethod
    def get_split(self, dataset: Any, split: str) -> Any:
        """Another split, whole, of the data set a handle came from.

        Raises:
            DataError: it has no such split; the message lists those it has.
        """

    @abstractmethod
    def shuffle(self, dataset: Any, seed: int = 0) -> Any:
        """The same rows in an order that depends only on `seed` and their number."""

    @abstractmethod
    def take(self, dataset: Any, n: int) -> Any:
        """The first `n` rows; all of them if there are fewer."""

    @abstractmethod
    def skip(self, dataset: Any, n: int) -> Any:
        """All but the first `n` rows."""

    @abstractmethod
    def select(self, dataset: Any, indices: Sequence[int]) -> Any:
        """The rows at `indices`, in that order.

        Raises:
            IndexError: an index is negative or beyond the last row.
        """

    @abstractmethod
    def to_list(self, dataset: Any) -> list[Row]:
        """All rows."""

    @abstractmethod
    def iterate(self, dataset: Any, batch_size: int) -> BatchIterator:
        """Rows in batches of `batch_size`; the last one may be smaller."""
