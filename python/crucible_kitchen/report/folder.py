"""A run's folder: what is written when it begins, and what is read for its report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_kitchen.engine.handlers.jsonl import plain
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.stages._folder import write_json

CONFIG, EVENTS, SAMPLES, REPORT = "config.json", "events.jsonl", "samples.json", "report.html"


def write_config(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``config.json``; values under names of secrets are hidden.

    Raises:
        CrucibleError: it could not be written.
    """
    write_json(folder / CONFIG, plain(content))


@dataclass(frozen=True)
class Point:
    """A metric's value at a step."""

    step: int
    value: float
    time: float


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Args:
        folder: where it is.
        about: ``config.json``.
        events: every event, as a dict, in order.
        samples: answers before and after.
    """

    folder: Path
    about: dict[str, Any]
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]] = field(default_factory=list)

    def metric(self, name: str) -> list[Point]:
        """The values of a metric that have a step, in order; those that are no numbers left out."""
        found = []
        for event in self.events:
            if event["kind"] == "metric" and event.get("name") == name and "step" in event:
                value = float(event["value"])
                if math.isfinite(value):
                    found.append(Point(int(event["step"]), value, float(event["time"])))
        return found

    @property
    def error(self) -> str:
        """What ended the run, empty where nothing did."""
        return next((str(e.get("error")) for e in self.events if e["kind"] == "run.error"), "")

    @property
    def status(self) -> str:
        """``finished``, ``failed`` or ``unfinished``."""
        kinds = {event["kind"] for event in self.events}
        if "run.error" in kinds:
            return "failed"
        return "finished" if "run.stop" in kinds else "unfinished"

    @property
    def seconds(self) -> float:
        """From the first event to the last."""
        times = [float(event["time"]) for event in self.events]
        return times[-1] - times[0] if times else 0.0


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        CrucibleError: it is no run's folder, or a file in it is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise CrucibleError(f"{folder} must be a run's folder, with {CONFIG}, got none there")
    samples = _json(folder / SAMPLES) if (folder / SAMPLES).is_file() else []
    return Run(folder, _json(folder / CONFIG), list(_events(folder / EVENTS)), samples)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrucibleError(f"{path} cannot be read: {error}") from error


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    # What follows the last line feed is empty, or was torn by a crash.
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CrucibleError(f"{path}, line {number} is damaged: {error}") from error
