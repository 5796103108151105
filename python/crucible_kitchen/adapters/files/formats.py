"""Rows of a file of JSONL, JSON, CSV, Parquet or Arrow, by its suffix; errors name file and row."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from crucible_kitchen.adapters.disk import speaking_our_errors
from crucible_kitchen.adapters.rows import without_nulls
from crucible_kitchen.errors import DataError, PortError
from crucible_kitchen.ports import Row

# What an Arrow file begins with; a stream has no such mark.
_ARROW_FILE: Final = b"ARROW1"


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        DataError: an unknown suffix, no rows, text that is not UTF-8, or a malformed row.
        PortError: the file cannot be opened, or its format needs a package that is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"dataset_store: {path} must end in one of {', '.join(READERS)}, got {path.suffix!r}"
        )
    with speaking_our_errors("dataset_store", f"read {path}"):
        try:
            rows = reader(path)
        except UnicodeDecodeError as error:
            raise DataError(f"dataset_store: {path} must be UTF-8 text, got {error}") from error
    if not rows:
        raise DataError(f"dataset_store: {path} must hold at least one row, got none")
    return rows


def _jsonl(path: Path) -> list[Row]:
    rows = []
    # Split at line feeds only: JSON text may hold other line separators, such as U+2028.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_object(_parsed(line, f"{path}, line {number}"), path, number, "line"))
    return rows


def _json(path: Path) -> list[Row]:
    value = _parsed(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(value, list):
        raise DataError(
            f"dataset_store: {path} must hold a list of rows, got {_kind(value)}; "
            "for one object a line, name it .jsonl"
        )
    return [_object(row, path, number, "row") for number, row in enumerate(value, 1)]


def _csv(path: Path) -> list[Row]:
    """Rows of a CSV file with a header; every value is text."""
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            repeated = sorted({name for name in header if header.count(name) > 1})
            if repeated:
                raise DataError(f"dataset_store: {path}: columns must differ, got {repeated} twice")
            for number, values in enumerate(filter(None, reader), 1):
                if len(values) != len(header):
                    raise DataError(
                        f"dataset_store: {path}, row {number} (line {reader.line_num}) must have "
                        f"{len(header)} values, got {len(values)}"
                    )
                rows.append(dict(zip(header, values, strict=True)))
        except csv.Error as error:
            raise DataError(
                f"dataset_store: {path}, row {len(rows) + 1} (line {reader.line_num}): {error}"
            ) from error
    return rows


def _parquet(path: Path) -> list[Row]:
    _pyarrow(path)
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"dataset_store: {path} must be a Parquet file: {error}") from error
    return [without_nulls(row) for row in rows]


def _arrow(path: Path) -> list[Row]:
    """Rows of an Arrow file or stream, as `datasets` and others write them."""
    _pyarrow(path)
    import pyarrow.ipc

    try:
        with pyarrow.memory_map(str(path)) as file:
            is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
            file.seek(0)
            opened = pyarrow.ipc.open_file(file) if is_file else pyarrow.ipc.open_stream(file)
            rows = opened.read_all().to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"dataset_store: {path} must be an Arrow file: {error}") from error
    return [without_nulls(row) for row in rows]


def _pyarrow(path: Path) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise PortError(
            f"dataset_store: reading {path} needs pyarrow; "
            "install it with pip install 'crucible-kitchen[parquet]'"
        )


READERS: Final[Mapping[str, Callable[[Path], list[Row]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
"""Suffix -> reader; where a folder has one split in several formats, it is an error."""


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # Its own text counts lines from the start of what was parsed, which is often one line.
        raise DataError(
            f"dataset_store: {where} must be JSON, got {error.msg} at character {error.pos + 1}"
        ) from error
    except ValueError as error:
        raise DataError(f"dataset_store: {where}: {error}") from error
    except RecursionError:
        raise DataError(f"dataset_store: {where}: nested too deeply") from None


def _object(value: Any, path: Path, number: int, unit: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"dataset_store: {path}, {unit} {number} must be an object, got {_kind(value)}"
        )
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a bool"}
    return names.get(type(value), "a number")
