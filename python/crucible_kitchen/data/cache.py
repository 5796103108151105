"""The folder for what is fetched or computed once, such as models."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from crucible_kitchen.engine.folders import cache_dir


def cached_folder(*parts: str, build: Callable[[Path], None]) -> Path:
    """A folder of the cache, built on first use, once, and whole or not at all.

    Of several processes that ask at the same time one builds; the others wait for it. What a killed
    process left unfinished is removed by the next one.

    Args:
        parts: path of the folder inside the cache. What the content depends on belongs in it.
        build: fills an empty folder that it is given. If it raises, nothing stays.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = cache_dir().joinpath(*parts)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        for abandoned in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(abandoned)
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.partial")
        partial.mkdir()
        try:
            build(partial)
            _sync(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _sync(folder: Path) -> None:
    # The rename must not reach the disk before the files do, or a power cut leaves a folder that
    # looks whole and is not.
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["cache_dir", "cached_folder"]
