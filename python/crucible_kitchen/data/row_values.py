"""Numbers that were computed once for a row, kept across runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from crucible_kitchen.data.cache import cache_dir
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.types import Datum


class RowValues:
    """A file of the cache that maps rows to numbers and only ever grows.

    Values are appended as they are computed, so a run that is killed has lost at most its last
    line. Several processes may add at the same time.

    Args:
        kind: what the numbers are; a folder of the cache.
        key: what they depend on besides the row.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.path: Path = cache_dir() / kind / f"{hashlib.sha256(key.encode()).hexdigest()}.jsonl"

    def read(self) -> dict[str, float]:
        """Every row's number by `row_hash`.

        Raises:
            CrucibleError: the file is there and cannot be read.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise CrucibleError(f"could not read the cache {self.path}: {error}") from error
        values: dict[str, float] = {}
        for line in lines:
            try:
                row, value = json.loads(line)
                number = float(value)
            except (ValueError, TypeError):
                # A process was killed, or a machine lost power, while it wrote this line.
                continue
            if isinstance(row, str) and math.isfinite(number):
                values[row] = number
        return values

    def add(self, values: Mapping[str, float]) -> None:
        """Append numbers; they are on disk when this returns.

        Raises:
            CrucibleError: the cache cannot be written; the message says how to choose another.
        """
        text = "".join(json.dumps([row, value]) + "\n" for row, value in values.items())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    # What a killed process left of a line must not swallow ours.
                    text = text if file.read(1) == b"\n" else "\n" + text
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CrucibleError(
                f"could not write the cache {self.path}: {error.strerror or error}; "
                "CRUCIBLE_CACHE names another folder for it"
            ) from error


def row_hash(datum: Datum) -> str:
    """A name for a datum's tokens, targets and weights, the same wherever they are equal."""
    digest = hashlib.sha256()
    tokens = datum.model_input.to_ints()
    digest.update(repr(tokens).encode())
    for name in ("target_tokens", "weights"):
        digest.update(datum.loss_fn_inputs[name].to_bytes())
    return digest.hexdigest()
