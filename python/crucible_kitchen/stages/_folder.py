"""Files of a run's folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.errors import CrucibleError


def run_folder(ctx: Context) -> Path | None:
    """The folder of the run, None where it keeps none."""
    folder = ctx.get_metadata("run_dir")
    return None if folder is None else Path(folder)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, whole.

    Raises:
        CrucibleError: it could not be written; what was there before still is.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrucibleError(f"could not make {path.parent}: {error.strerror or error}") from error
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CrucibleError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON.

    Raises:
        CrucibleError: it could not be written.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
