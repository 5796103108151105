"""How long the stages of a run took, from the events in its folder."""

from __future__ import annotations

import re
from pathlib import Path

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import Timing

from .folder import EVENTS, read_run

_INDEX = re.compile(r"\[\d+\]")


def read_timings(folder: Path) -> dict[str, Timing]:
    """Path of a stage, without indices -> how often it ran and how long that took.

    Raises:
        CrucibleError: it is no run's folder, a file in it is damaged, or no stage has finished.
    """
    found: dict[str, Timing] = {}
    for event in read_run(folder).events:
        if event["kind"] == "stage.stop":
            path = _INDEX.sub("", event["path"])
            runs, seconds = found.get(path, Timing(0, 0.0))
            found[path] = Timing(runs + 1, seconds + event["duration_s"])
    if not found:
        raise CrucibleError(f"{folder / EVENTS} must tell of finished stages, got none")
    return found
