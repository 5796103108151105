"""`JsonLines`: one line of JSON an event."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from crucible_kitchen.engine.events import Event
from crucible_kitchen.engine.redact import HIDDEN, hides, without_passwords

_LONGEST = 200


class JsonLines:
    """Appends every event to a file; fields that do not apply are left out.

    Args:
        path: of the file; its folder must exist.

    Attributes:
        lines: how many it has written, or holds already.
    """

    FILE: ClassVar[str] = "events.jsonl"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.lines = Path(path), 0
        self._file = self.path.open("a", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if event.metadata and event.metadata.get("resumed"):
            return  # it was written before the run stopped
        fields = {
            name: value
            for name, value in event._asdict().items()
            if value is not None and value != {}
        }
        line = json.dumps(plain(fields), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._file.write(line + "\n")
        self.lines += 1
        if not event.kind.startswith(("stage.st", "iteration")):
            self._file.flush()  # what somebody may be waiting for is there at once

    def flush(self) -> None:
        """Hand to the system what has been told so far."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


def plain(value: Any) -> Any:
    """A value as JSON can hold it.

    Numbers that are not finite become the strings ``NaN``, ``Infinity`` and ``-Infinity``; secrets
    are hidden, passwords in URLs too; what JSON does not know is its `repr`, shortened.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return without_passwords(str(value))
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if hides(key, inner) else plain(inner) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy or torch
        return plain(value.item())
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
