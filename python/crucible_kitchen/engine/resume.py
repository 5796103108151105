"""What a journal is begun with, and whether a run may go on from one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context, MetricLog
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import Workflow, describe

from .checkpoint import Every, Policy, Seconds
from .handlers.jsonl import plain
from .journal import Story
from .rewind import records
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
        "config": shown_config(dict(context.config)),
        "adapters": {port: class_name(adapter) for port, adapter in adapters.items()},
        "seed": seed,
        "metadata": {k: v for k, v in plain(dict(context.metadata)).items() if k != "run_dir"},
        "checkpoint": {**when, "fsync": policy.fsync},
    }


def shown_config(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as a journal has it: a text for each value, without secrets."""
    return {key: _shown(value) for key, value in plain(dict(config)).items()}


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


def refuse_late_changes(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse other values of the configuration once a run has finished: nothing would read them.

    Raises:
        ConfigError: with those that differ. Keys that are there only before or now, as they are
            with another version, do not count.
    """
    both = before.keys() & now.keys()
    differ = _differences(
        *({key: one[key] for key in before if key in both} for one in (before, now))
    )
    lines = [f"  - config {difference}" for difference in differ]
    if lines:
        raise ConfigError(
            "\n".join(
                [f"resume: {run_dir} has finished, and nothing of it would run with:", *lines]
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


def finished_context(story: Story, context: Context, vault: Vault) -> Context:
    """The context of a run that had finished: its metrics, and its small values."""
    return context.replace(
        _state=dict(story.finished or {}), _log=MetricLog(records(story, vault)), _recorder=None
    )
