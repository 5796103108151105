"""What a journal is begun with, whether a run may go on from one, and what must be put back."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context, MetricLog, MetricRecord
from crucible_kitchen.errors import ConfigError, CrucibleError
from crucible_kitchen.graph import Workflow, describe
from crucible_kitchen.ports import MetricsStore

from .checkpoint import Every, Policy, Seconds
from .handlers.jsonl import plain
from .journal import Saved, Story, body_of
from .vault import Vault

_LONGEST = 160
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_UNSEEN = ("kind", "name", "path", "source", "doc", "types", "children")


def about(
    workflow: Workflow, context: Context, seed: int, policy: Policy, adapters: Mapping[str, Any]
) -> dict[str, Any]:
    """The first line of a journal: what runs, on what."""
    when = {"every": policy.stages} if isinstance(policy, Every) else {"seconds": policy.seconds}
    return {
        "workflow": dict(_nodes(describe(workflow))),
        "config": {key: _shown(value) for key, value in plain(dict(context.config)).items()},
        "adapters": {port: class_name(adapter) for port, adapter in adapters.items()},
        "seed": seed,
        "metadata": {k: v for k, v in plain(dict(context.metadata)).items() if k != "run_dir"},
        "checkpoint": {**when, "fsync": policy.fsync},
    }


def policy_of(story: Story) -> Policy:
    """When the run wrote checkpoints before it stopped."""
    said = story.about["checkpoint"]
    if "every" in said:
        return Every(said["every"], said["fsync"])
    return Seconds(said["seconds"], said["fsync"])


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse to go on with another workflow, configuration or adapters than a run began with.

    Raises:
        ConfigError: with everything that differs.
    """
    lines = [
        f"  - {kind} {difference}"
        for kind in ("workflow", "config", "adapters")
        for difference in _differences(before[kind], now[kind])
    ]
    if before["seed"] != now["seed"]:
        lines.append(f"  - seed: {before['seed']} before, {now['seed']} now")
    if lines:
        raise ConfigError(
            "\n".join(
                [
                    f"resume: {run_dir} was begun differently:",
                    *lines,
                    "Go on with what it was begun with, or pass allow_changed=True",
                ]
            )
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*before, *now]):
        if key not in now:
            yield f"{key}: {before[key]} before, gone now"
        elif key not in before:
            yield f"{key}: not there before, {now[key]} now"
        elif before[key] != now[key]:
            yield f"{key}: {before[key]} before, {now[key]} now"


def _nodes(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What each node is, in one text a node."""
    said = {key: value for key, value in node.items() if key not in _UNSEEN and value not in ([],)}
    yield node["path"], " ".join([node["kind"], *(f"{k}={_shown(v)}" for k, v in said.items())])
    for child in node["children"]:
        yield from _nodes(child)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _ADDRESS.sub("", text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... ({hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"


def class_name(adapter: Any) -> str:
    """Where an adapter is from; its options may hold secrets and are left out."""
    made = adapter[0] if isinstance(adapter, tuple) else adapter
    kind = made if isinstance(made, type) else type(made)
    return f"{kind.__module__}.{kind.__qualname__}"


def records(story: Story, vault: Vault) -> list[MetricRecord]:
    """Every metric that a journal keeps: the run's, then those of its strands."""
    return [
        MetricRecord(name, value, step, time, vault.decode(metadata))
        for strand in story.main.all()
        for name, value, step, time, metadata in strand.records
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
    kept = list(_kept(lines, path, main)) if main.children else lines[: main.events]
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
    recorded = Counter(_told(*fields[:3]) for child in members for fields in child.records)
    for number, line in enumerate(lines):
        try:
            event = json.loads(line)
            strand = _owner(event["path"], main)
        except (ValueError, KeyError, TypeError) as error:
            raise CrucibleError(f"{path}, line {number + 1} is damaged: {error!r}") from error
        keep = number < strand.events
        told_inside = strand.inside and event["path"] == body_of(strand.at)
        if not keep and event["kind"] == "metric" and told_inside:
            told = _told(event["name"], event["value"], event.get("step"))
            keep = recorded[told] > 0
            recorded[told] -= 1
        if keep:
            yield line


def _told(name: str, value: Any, step: int | None) -> tuple[str, str, int | None]:
    return name, str(plain(value)), step  # the file has texts for NaN and the infinities


def _owner(where: str, strand: Saved) -> Saved:
    """The innermost strand that an execution is of."""
    for child in strand.children.values():
        if where == child.path or where.startswith((f"{child.path}/", f"{child.path}[")):
            return _owner(where, child)
    return strand


def finished_context(story: Story, context: Context, vault: Vault) -> Context:
    """The context of a run that had finished: its metrics, and its small values."""
    return context.replace(
        _state=dict(story.finished or {}), _log=MetricLog(records(story, vault)), _recorder=None
    )
