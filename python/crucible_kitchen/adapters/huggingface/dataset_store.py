"""Data sets on the Hugging Face hub or in local folders, through `datasets`."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from crucible_kitchen.adapters.foreign import library
from crucible_kitchen.adapters.rows import (
    Rows,
    RowsDatasetStore,
    check_options,
    no_such_split,
    whole_number,
    without_nulls,
)
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.ports import BatchIterator, Row

from .refusals import refusal, told
from .stream import Stream, StreamBatches

_PORT: Final = "dataset_store"
_PATIENCE_S: Final = 30.0
_OPTIONS: Final = ("config", "data_dir", "data_files", "revision", "streaming")


class ArrowRows(Sequence[Row]):
    """Rows of a `datasets.Dataset`, which stay in its memory-mapped file until they are read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Row]:
        return map(without_nulls, self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.picked(range(*index.indices(len(self))))
        return without_nulls(self.dataset[operator.index(index)])

    def picked(self, indices: Sequence[int]) -> ArrowRows:
        """The rows at `indices`, without reading them."""
        # An empty range is checked by its start, which may lie behind the last row.
        return ArrowRows(self.dataset.select(indices if len(indices) else []))


class DatasetStore(RowsDatasetStore):
    """What `datasets` can load: a hub's name, or a folder of Parquet, JSON, CSV or text files.

    A data set that was loaded once is in the cache; with ``HF_HUB_OFFLINE=1``, or when the hub
    cannot be reached, it comes from there.

    Args:
        cache_dir: where prepared data sets are kept; by default the folder that ``HF_HOME`` or
            ``HF_DATASETS_CACHE`` names.
        token: for private data; by default the one that ``huggingface_hub`` finds. It is in no
            message.
        shuffle_buffer: rows that a shuffled stream draws from.

    Options of `load_dataset`: ``config`` (which configuration of the data set), ``revision``
    (branch, tag or commit), ``data_dir``, ``data_files``, and ``streaming`` (False): read rows as
    they are needed instead of preparing all of them. A split may be a slice, ``train[:10%]``.
    """

    def __init__(
        self, cache_dir: str | None = None, token: str | None = None, shuffle_buffer: int = 1000
    ) -> None:
        self._cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        self._token = token
        self._shuffle_buffer = whole_number("shuffle_buffer", shuffle_buffer, least=1)

    def load_dataset(
        self, name: str, split: str = "train", limit: int | None = None, **options: Any
    ) -> Any:
        """Open a data set; see `ports.DatasetStore.load_dataset`."""
        check_options(options, _OPTIONS)
        streaming = options.get("streaming", False)
        if not isinstance(streaming, bool):
            raise ConfigError(f"load_dataset: streaming must be true or false, got {streaming!r}")
        if not streaming:
            return super().load_dataset(name, split, limit, **options)
        if limit is not None:
            whole_number("limit", limit, least=1)
        loaded = self._open_stream(name, split, options)
        return loaded if limit is None else loaded.taken(limit)

    def _read(self, name: str, split: str, options: Mapping[str, Any]) -> ArrowRows:
        builder = self._builder(name, options)
        with self._speaking_our_errors(name):
            builder.download_and_prepare()
        known = sorted(builder.info.splits or ())
        # Slices and sums of splits, such as train[:10%]+test, are left to the library to parse.
        if not any(split.startswith(one) for one in known):
            raise no_such_split(name, split, known)
        with self._speaking_our_errors(name, split, known):
            return ArrowRows(builder.as_dataset(split=split))

    def _open_stream(self, name: str, split: str, options: Mapping[str, Any]) -> Stream:
        def reload(wanted: str) -> Stream:
            return self._open_stream(name, wanted, options)

        builder = self._builder(name, options)
        with self._speaking_our_errors(name):
            splits = builder.as_streaming_dataset()
        if split not in splits:
            raise no_such_split(name, split, sorted(splits))
        stream = Stream(name, split, splits[split], reload, self._reading(name))
        if not any(True for _ in stream.taken(1).rows()):
            raise DataError(f"dataset_store: {name!r} has no rows in split {split!r}")
        return stream

    def _builder(self, name: str, options: Mapping[str, Any]) -> Any:
        if not isinstance(name, str) or not name:
            raise DataError(f"dataset_store: name must be text, not empty, got {name!r}")
        datasets = library("datasets", port=_PORT, extra="huggingface")
        path = os.path.expanduser(name)
        with self._speaking_our_errors(name):
            if not os.path.exists(path):
                self._check_reachable(name, options.get("revision"))
            return datasets.load_dataset_builder(
                path,
                name=options.get("config"),
                data_dir=options.get("data_dir"),
                data_files=options.get("data_files"),
                revision=options.get("revision"),
                cache_dir=self._cache_dir,
                token=self._token,
            )

    def _check_reachable(self, name: str, revision: str | None) -> None:
        """Ask the hub once: `datasets` asks for half a minute before it says that nobody answers.

        Raises:
            ConnectionError: there is no answer, and nothing of this name in the cache.
            PortError: the answer is that this token may not read it, if it is there at all.
        """
        hub = library("huggingface_hub", port=_PORT, extra="huggingface")
        config = library("datasets.config", port=_PORT, extra="huggingface")
        cache = self._cache_dir or config.HF_DATASETS_CACHE
        cached = os.path.isdir(os.path.join(cache, name.replace("/", "___")))
        if config.HF_HUB_OFFLINE or cached:
            return
        try:
            hub.HfApi().dataset_info(
                name, revision=revision, timeout=_PATIENCE_S, token=self._token
            )
        except hub.errors.HfHubHTTPError as error:
            refused = refusal(error)
            if refused:
                raise PortError(f"dataset_store: could not load {name!r}: {refused}") from None
            return  # an answer, which `datasets` gets too and says better
        except _no_answer() as error:
            raise ConnectionError(f"the hub gave no answer ({error})") from error

    def get_split(self, dataset: Any, split: str) -> Any:
        """Another split, whole, of the data set a handle came from."""
        return dataset.reload(split)

    def shuffle(self, dataset: Any, seed: int = 0) -> Any:
        """The same rows in another order; a stream's rows only within a buffer of them."""
        if isinstance(dataset, Stream):
            return dataset.shuffled(whole_number("seed", seed), self._shuffle_buffer)
        return super().shuffle(dataset, seed)

    def take(self, dataset: Any, n: int) -> Any:
        """The first `n` rows."""
        if isinstance(dataset, Stream):
            return dataset.taken(whole_number("n", n))
        return super().take(dataset, n)

    def skip(self, dataset: Any, n: int) -> Any:
        """All but the first `n` rows."""
        if isinstance(dataset, Stream):
            return dataset.skipped(whole_number("n", n))
        return super().skip(dataset, n)

    def select(self, dataset: Any, indices: Sequence[int]) -> Any:
        """The rows at `indices`; a stream is read up to the last of them."""
        if isinstance(dataset, Stream):
            return self._select_of_stream(dataset, indices)
        for index in indices:
            if not 0 <= index < len(dataset):
                raise IndexError(
                    f"select: indices must be in [0, {len(dataset)}) for {dataset!r}, got {index}"
                )
        return replace(dataset, rows=dataset.rows.picked(indices))

    def _select_of_stream(self, stream: Stream, indices: Sequence[int]) -> Rows:
        wanted = list(indices)
        if any(index < 0 for index in wanted):
            raise IndexError(f"select: indices must be at least 0, got {min(wanted)}")
        rows = list(stream.taken(max(wanted, default=-1) + 1).rows())
        if wanted and max(wanted) >= len(rows):
            raise IndexError(f"select: {stream!r} has {len(rows)} rows, got index {max(wanted)}")
        return Rows(stream.name, stream.split, [rows[index] for index in wanted], stream.reload)

    def to_list(self, dataset: Any) -> list[Row]:
        """All rows."""
        if isinstance(dataset, Stream):
            return list(dataset.rows())
        with self._speaking_our_errors(dataset.name):
            return super().to_list(dataset)

    def iterate(self, dataset: Any, batch_size: int) -> BatchIterator:
        """Rows in batches; the last one may be smaller."""
        if isinstance(dataset, Stream):
            return StreamBatches(dataset, whole_number("batch_size", batch_size, least=1))
        return super().iterate(dataset, batch_size)

    def _reading(self, name: str) -> Callable[[], Any]:
        return lambda: self._speaking_our_errors(name)

    @contextmanager
    def _speaking_our_errors(
        self, name: str, split: str = "", known: Sequence[str] = ()
    ) -> Iterator[None]:
        """Say in our words what `datasets` says in many: what cannot be had, or what is damaged."""
        try:
            yield
        except (ConnectionError, PermissionError) as error:
            raise PortError(
                f"dataset_store: could not reach {name!r}, and it is not in the cache: "
                f"{self._plain(error)}"
            ) from None
        except _foreign() as error:
            if split:
                raise no_such_split(name, split, known) from None
            raise DataError(f"dataset_store: could not load {name!r}: {self._plain(error)}") from (
                None
            )

    def _plain(self, error: Exception) -> str:
        # The reason of "an error occurred while generating" is in what caused it.
        while type(error).__name__ == "DatasetGenerationError":
            if not isinstance(error.__cause__, Exception):
                break
            error = error.__cause__
        return told(error, self._token)


def _foreign() -> tuple[type[Exception], ...]:
    datasets = library("datasets.exceptions", port=_PORT, extra="huggingface")
    arrow = library("pyarrow", port=_PORT, extra="huggingface")
    return (datasets.DatasetsError, _no_answer(), arrow.ArrowException, OSError, ValueError)


def _no_answer() -> type[Exception]:
    """What the HTTP library raises; it is the base of the hub's error, and its name changes."""
    hub = library("huggingface_hub.errors", port=_PORT, extra="huggingface")
    base: type[Exception] = hub.HfHubHTTPError.__bases__[0]
    return base
