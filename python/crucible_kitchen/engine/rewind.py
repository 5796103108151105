"""Puts metrics and events back to where a journal says that its run stood."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.context import MetricRecord
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.ports import MetricsStore

from .handlers.jsonl import plain
from .journal import Saved, Story, body_of
from .vault import Vault

Told = tuple[str, str, int | None]
"""Name, value and step of a metric, as the file of events has them."""


def records(story: Story, vault: Vault) -> list[MetricRecord]:
    """Every metric that a journal keeps: the run's, then those of its strands."""
    # What is in use has given its records on.
    ahead = [record for _, records in _made_ahead(story.main) for record in records]
    kept = [record for strand in story.main.all() for record in strand.records]
    return [
        MetricRecord(name, value, step, time, vault.decode(metadata))
        for name, value, step, time, metadata in (*kept, *ahead)
    ]


def rewind_metrics(store: MetricsStore, run_id: str, known: list[MetricRecord]) -> None:
    """Have a store hold what the journal does."""
    from crucible_kitchen.types import MetricPoint  # here and not above: it loads numpy

    points = [
        MetricPoint(run_id, r.name, float(r.value), r.step, r.time, dict(r.metadata)) for r in known
    ]
    store.rewind(run_id, points)


def rewind_events(path: Path, main: Saved) -> int:
    """Cut off the events that came after the checkpoint; how many lines are left.

    Raises:
        CrucibleError: a line is damaged.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    simple = not main.children and not any(main.made())
    kept = lines[: main.events] if simple else list(_kept(lines, path, main))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(b"".join(line + b"\n" for line in kept))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return len(kept)


def _kept(lines: list[bytes], path: Path, main: Saved) -> Iterator[bytes]:
    """The events that strands told before they were written down."""
    # Members of a `parallel` tell metrics under the name of the block, not under their own.
    members = [child for strand in main.all() for child in strand.children.values()]
    recorded = _counted(fields for child in members for fields in child.records)
    made = {where: _counted(records) for where, records in _made_ahead(main)}
    for number, line in enumerate(lines):
        try:
            event = json.loads(line)
            strand = _owner(event["path"], main)
        except (ValueError, KeyError, TypeError) as error:
            raise CrucibleError(f"{path}, line {number + 1} is damaged: {error!r}") from error
        ahead = _iteration_ahead(event["path"], strand)
        if ahead is not None:
            keep = event["path"] == f"{ahead}/producer" and ahead in made
            if event["kind"] == "metric":
                keep = _one_of(made.get(ahead), event)
        else:
            keep = number < strand.events
            told_inside = strand.inside and event["path"] == body_of(strand.at)
            if not keep and event["kind"] == "metric" and told_inside:
                keep = _one_of(recorded, event)
        if keep:
            yield line


def _made_ahead(main: Saved) -> Iterator[tuple[str, list[list[Any]]]]:
    """Metrics of what was made for each iteration to come of an `async_loop`, by its id."""
    for strand in main.all():
        for loop, made in strand.made():
            for number, (_, records) in made.items():
                if int(number) > strand.index_in(loop):
                    yield f"{loop}[{number}]", records


def _iteration_ahead(where: str, strand: Saved) -> str | None:
    """The iteration to come of an `async_loop` that something is of; else None."""
    for loop, _ in strand.made():
        if where.startswith(f"{loop}["):
            number = where[len(loop) + 1 :].partition("]")[0]
            return f"{loop}[{number}]" if int(number) > strand.index_in(loop) else None
    return None


def _one_of(recorded: Counter[Told] | None, event: Mapping[str, Any]) -> bool:
    """Whether a metric is one of those that were recorded; each is found once."""
    if recorded is None:
        return False
    told = _told(event["name"], event["value"], event.get("step"))
    recorded[told] -= 1
    return recorded[told] >= 0


def _counted(records: Iterable[list[Any]]) -> Counter[Told]:
    return Counter(_told(*fields[:3]) for fields in records)


def _told(name: str, value: Any, step: int | None) -> Told:
    return name, str(plain(value)), step  # the file has texts for NaN and the infinities


def _owner(where: str, strand: Saved) -> Saved:
    """The innermost strand that an execution is of."""
    for child in strand.children.values():
        if where == child.path or where.startswith((f"{child.path}/", f"{child.path}[")):
            return _owner(where, child)
    return strand
