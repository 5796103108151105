"""What a run took, stage by stage, from its events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import CrucibleError

EVENTS = "events.jsonl"


@dataclass
class Spent:
    """All executions of one stage, or of one block.

    Args:
        count: executions that ended well; of a loop its iterations.
        running: executions that have begun and not ended.
        seconds: of all that ended.
        longest: seconds of the longest.
        retries: attempts that were tried again.
        error: text of the last failure, empty where there was none.
        spans: begin and end of each execution, seconds since the run began.
    """

    count: int = 0
    running: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    retries: int = 0
    error: str = ""
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``failed``, ``running``, ``done`` or ``unrun``."""
        if self.error:
            return "failed"
        if self.running:
            return "running"
        return "done" if self.count else "unrun"


@dataclass
class Times:
    """A run's time.

    Args:
        spent: by path without indices.
        seconds: from the first event to the last.
        status: ``finished``, ``failed`` or ``unfinished``.
        error: what ended the run, empty where nothing did.
    """

    spent: dict[str, Spent] = field(default_factory=dict)
    seconds: float = 0.0
    status: str = "unfinished"
    error: str = ""

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]], workflow: str) -> Times:
        """The time that the events tell.

        Raises:
            CrucibleError: they are of a run of another workflow.
        """
        times, began, open_since = cls(), None, {}
        for event in events:
            path, kind, now = str(event["path"]), str(event["kind"]), float(event["time"])
            if began is None:
                began = now
                if path.partition("/")[0] != workflow:
                    raise CrucibleError(
                        f"html: run must be one of workflow {workflow!r}, got one of {path!r}"
                    )
            times.seconds = now - began
            if kind == "stage.start":
                open_since[path] = now - began
                times.at(path).running += 1
            elif kind in ("stage.stop", "stage.error"):
                times._ended(event, open_since.pop(path, now - began), now - began)
            elif kind == "stage.retry":
                times.at(path).retries += 1
            elif kind == "iteration.start":
                times.at(path).count += 1
            elif kind in ("block.stop", "block.error"):
                times.at(path).seconds += float(event.get("duration_s") or 0.0)
            elif kind == "run.stop":
                times.status = "finished"
            elif kind == "run.error":
                times.status, times.error = "failed", str(event.get("error") or "")
        for path, since in open_since.items():
            times.at(path).spans.append((since, times.seconds))
        return times

    def at(self, path: str) -> Spent:
        """What is known of a path, with or without indices."""
        return self.spent.setdefault(without_indices(path), Spent())

    def get(self, path: str) -> Spent:
        """The same, without making a note of it."""
        return self.spent.get(path) or Spent()

    @property
    def most(self) -> float:
        """Seconds of the stage that took the longest in all."""
        return max((one.seconds for one in self.spent.values() if one.spans), default=0.0) or 1.0

    def _ended(self, event: Mapping[str, Any], since: float, now: float) -> None:
        one, took = self.at(event["path"]), float(event.get("duration_s") or 0.0)
        one.running = max(one.running - 1, 0)
        one.seconds += took
        one.longest = max(one.longest, took)
        one.spans.append((since, now))
        if event["kind"] == "stage.error":
            one.error = str(event.get("error") or "failed")
        else:
            one.count += 1


def read_events(run: Any) -> Iterator[Mapping[str, Any]]:
    """The events of a run.

    Args:
        run: its folder, the result of `run`, or events: those a handler got, or dicts.
    Raises:
        CrucibleError: there are none there, or a line of them is damaged.
        TypeError: it is nothing of this.
    """
    folder = getattr(run, "run_dir", run)
    if folder is None:
        raise CrucibleError(
            "html: the run kept no folder; run it with run_dir=, or pass its events"
        )
    if isinstance(folder, str | Path):
        yield from _lines(Path(folder))
    elif isinstance(folder, Iterable):
        for event in folder:
            yield event if isinstance(event, Mapping) else event._asdict()
    else:
        raise TypeError(
            f"html: run must be a run's folder, a result, or events, got {type(run).__name__}"
        )


def _lines(folder: Path) -> Iterator[Mapping[str, Any]]:
    path = folder / EVENTS if folder.is_dir() else folder
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise CrucibleError(f"html: {path} cannot be read: {error}") from error
    # What follows the last line feed is empty, or was torn by a crash.
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CrucibleError(f"html: {path}, line {number} is damaged: {error}") from error


def without_indices(path: str) -> str:
    """``sft/epochs[2]/optim_step`` as ``sft/epochs/optim_step``."""
    return re.sub(r"\[\d+\]", "", path)


def duration(seconds: float) -> str:
    """``40 us``, ``830 ms``, ``12.3 s``, ``2 min 51 s``, ``3 h 05 min``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
