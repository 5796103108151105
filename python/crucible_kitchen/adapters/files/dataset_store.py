"""Data sets in files."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crucible_kitchen.adapters.rows import RowsDatasetStore, check_options, no_such_split
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import Row

from .formats import READERS, read_rows

_HELD_OUT: Final = "validation"
_FRACTION: Final = "validation_fraction"


class DatasetStore(RowsDatasetStore):
    """JSONL, JSON, CSV, Parquet and Arrow files, and folders of them.

    A folder has one file a split (``train.jsonl``, ``validation.csv``). A file alone is the split
    ``train``. Where there is no file for it, `validation_fraction` holds rows of ``train`` back as
    the split ``validation``: which ones depends only on `split_seed` and the number of rows.

    Args:
        root: folder that relative names start from; by default the working folder.

    Options of `load_dataset`: ``validation_fraction`` in (0, 1), ``split_seed`` (0).
    """

    def __init__(self, root: str | None = None) -> None:
        self._root = Path() if root is None else Path(root)

    def _read(self, name: str, split: str, options: Mapping[str, Any]) -> Sequence[Row]:
        check_options(options, (_FRACTION, "split_seed"))
        fraction = options.get(_FRACTION)
        if fraction is not None and not (isinstance(fraction, float) and 0.0 < fraction < 1.0):
            raise ConfigError(f"load_dataset: {_FRACTION} must be in (0, 1), got {fraction!r}")
        files = _split_files(self._root / Path(name).expanduser())
        if fraction is not None and _HELD_OUT in files:
            raise ConfigError(
                f"load_dataset: {_FRACTION} must be absent, as {files[_HELD_OUT]} is that split"
            )
        held_out = fraction is not None and "train" in files
        if held_out and split in ("train", _HELD_OUT):
            rows = read_rows(files["train"])
            picked = _held_out(len(rows), float(fraction or 0), options.get("split_seed", 0))
            return [row for i, row in enumerate(rows) if (i in picked) == (split == _HELD_OUT)]
        if split not in files:
            advice = "" if split != _HELD_OUT else f"{_FRACTION}=0.1 holds some rows back for it"
            raise no_such_split(name, split, sorted(files), advice)
        return read_rows(files[split])


def _split_files(path: Path) -> dict[str, Path]:
    """The file of each split.

    Raises:
        DataError: there is nothing at `path`, nothing to read in it, or two files for one split.
    """
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise DataError(f"dataset_store: no file or folder at {path}")
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in READERS and file.is_file():
            if file.stem in files:
                raise DataError(
                    f"dataset_store: split {file.stem!r} must have one file, "
                    f"got {files[file.stem]} and {file}"
                )
            files[file.stem] = file
    if not files:
        raise DataError(
            f"dataset_store: folder {path} must hold files such as train.jsonl, "
            f"got none that end in {', '.join(READERS)}"
        )
    return files


def _held_out(count: int, fraction: float, seed: Any) -> frozenset[int]:
    """Which of `count` rows are held back; at least one, and never all.

    Raises:
        DataError: fewer than two rows.
    """
    if count < 2:
        raise DataError(f"dataset_store: {_FRACTION} needs at least two rows, got {count}")
    size = min(max(round(count * fraction), 1), count - 1)
    return frozenset(random.Random(seed).sample(range(count), size))
