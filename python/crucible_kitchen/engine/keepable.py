"""Values that a journal cannot keep, found before the run from the types that stages declare."""

from __future__ import annotations

import collections.abc
import io
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from crucible_kitchen.errors import Problem
from crucible_kitchen.graph import AsyncLoop, StageNode, Workflow, walk
from crucible_kitchen.graph.annotations import runtime_classes, show
from crucible_kitchen.ports import PORTS, Port, Ports

_NEVER: tuple[type, ...] = (
    collections.abc.Generator,
    collections.abc.AsyncGenerator,
    collections.abc.Coroutine,
    io.IOBase,
    types.ModuleType,
    types.FrameType,
    types.TracebackType,
    types.CodeType,
)
# Of modules that are slow to import: nobody writes such a value who has not imported them.
_NEVER_FROM = (
    ("threading", "Thread"),
    ("threading", "Event"),
    ("threading", "Condition"),
    ("socket", "socket"),
    ("subprocess", "Popen"),
    ("sqlite3", "Connection"),
    ("asyncio", "Future"),
    ("concurrent.futures", "Future"),
    ("concurrent.futures", "Executor"),
    ("multiprocessing.process", "BaseProcess"),
)


def checkpoint_problems(
    workflow: Workflow, adapters: Mapping[str, Any] | Ports
) -> Iterator[Problem]:
    """What stages say they write and no journal can keep.

    Args:
        workflow: that is to write checkpoints.
        adapters: as for a run.
    """
    never = (*_NEVER, *_loaded())
    # What cleans up is not written down.
    body = (pair for node in workflow.body for pair in walk(node, workflow.name))
    for path, node in body:
        if isinstance(node, AsyncLoop):  # items that are made ahead are kept
            made, source = node.producer.signature.returns, node.producer.source or node.source
            said = f"gives {node.variables[0]!r}"
            yield from _never_kept(f"{path}/producer", source, said, made, never)
        if not isinstance(node, StageNode):
            continue
        for write in node.writes:
            said = f"writes {write.key!r}"
            yield from _never_kept(path, node.source, said, write.type, never)
            classes = runtime_classes(write.type) or ()
            for name in node.ports:
                yield from _handles(path, node, write.key, classes, name, adapters)


def _never_kept(
    path: str, source: str, said: str, kind: Any, never: tuple[type, ...]
) -> Iterator[Problem]:
    if any(issubclass(one, never) for one in runtime_classes(kind) or ()):
        message = f"{said} as {show(kind)}, which no checkpoint can keep"
        advice = "give on what it is made from, and make it where it is used"
        yield Problem("cannot-checkpoint", path, message, source, advice)


def _handles(
    path: str,
    node: StageNode,
    key: str,
    classes: tuple[type, ...],
    name: str,
    adapters: Mapping[str, Any] | Ports,
) -> Iterator[Problem]:
    port = PORTS.get(name)
    if port is None or name not in adapters:
        return
    adapter = adapters[name]
    made = adapter[0] if isinstance(adapter, tuple) else adapter
    kind = made if isinstance(made, type) else type(made)
    kept = getattr(kind, "owns", Port.owns) is not Port.owns
    if not kept and any(issubclass(one, port.handles) for one in classes):
        message = f"writes {key!r}, a handle of {kind.__name__}, which cannot save its handles"
        advice = f"{name}: define owns, save_value and load_value, see {port.__name__}"
        yield Problem("cannot-checkpoint", path, message, node.source, advice)


def _loaded() -> Iterator[type]:
    for module, name in _NEVER_FROM:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type):
            yield kind
