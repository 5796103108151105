"""What adapters that write to a disk share: whole files or none, and our errors instead of its."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from crucible_kitchen.errors import PortError

TEMPORARY_SUFFIX: Final = ".partial"


@contextlib.contextmanager
def speaking_our_errors(port: str, doing: str) -> Iterator[None]:
    """Turn an error of the file system into a `PortError` that says what could not be done."""
    try:
        yield
    except OSError as error:
        raise PortError(f"{port}: could not {doing}: {error.strerror or error}") from error


@contextlib.contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A fresh name in the folder of `path`; whatever stands there at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes | Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for piece in (data,) if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader, or a power cut, finds the old one or the new one, whole.

    Raises:
        OSError: it could not be written; the old file is untouched, and no part of the new stays.
    """
    with _temporary_beside(path) as temporary:
        _write_synced(temporary, data)
        temporary.replace(path)
    _sync_folder(path.parent)


def create_atomically(path: Path, data: bytes) -> None:
    """As `write_atomically`, for a file that must be new, also when two writers race.

    Raises:
        FileExistsError: there is one already.
        OSError: it could not be written; no part of it stays.
    """
    with _temporary_beside(path) as temporary:
        _write_synced(temporary, data)
        # Unlike a rename, a link refuses to take the place of a file.
        os.link(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # A new name is durable only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
