"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from crucible_kitchen.errors import PortError


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, doing: str) -> Iterator[Path]:
    """A temporary sibling of `path` to write into, which becomes `path` when the block ends well.

    Args:
        path: the folder to make; one that exists is replaced as a whole.
        doing: what is being saved, for the error, such as ``training_client: save checkpoint``.

    Raises:
        PortError: it could not be written (a full disk, no permission); `path` is as it was.
    """
    target = Path(path).absolute()
    unique = uuid.uuid4().hex[:8]
    partial = target.with_name(f".{target.name}.{unique}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in [*sorted(partial.rglob("*")), partial]:
            _flush(file)
        if target.exists():
            replaced = target.with_name(f".{target.name}.{unique}.replaced")
            target.rename(replaced)
            partial.rename(target)
            shutil.rmtree(replaced)
        else:
            partial.rename(target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        raise PortError(f"{doing}: could not write {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
