"""What bodies write and use, as sets of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crucible_kitchen.ports import PORTS, Ports

from .blocks import Block, Node
from .loops import AsyncLoop, Loop, StreamLoop
from .stage import StageNode
from .together import FanOut, Parallel, Scope


def keys_written(body: Iterable[Node]) -> Iterator[str]:
    """Keys declared as written anywhere in a body, as they are called beside it."""
    for node in body:
        if isinstance(node, StageNode):
            yield from (write.key for write in node.writes)
        elif isinstance(node, FanOut):
            yield from (key for _, key in node.collect)
        elif isinstance(node, Scope):
            yield from (node.prefix + key for key in keys_written(node.body))
        elif isinstance(node, Block):
            for _, inner in node.regions:
                yield from keys_written(inner)


def any_opaque(body: Iterable[Node]) -> bool:
    """Whether a stage in a body may write anything that stays."""
    for node in body:
        if isinstance(node, StageNode):
            if node.opaque:
                return True
        elif isinstance(node, Block) and not isinstance(node, FanOut):  # copies keep it inside
            found = any(any_opaque(inner) for _, inner in node.regions)
            if found:
                return True
    return False


def sees_anything(body: Iterable[Node]) -> bool:
    """Whether something in a body may read any key."""
    for node in _each(body):
        if isinstance(node, StageNode):
            if node.opaque or node.signature.sees_context:
                return True
        elif isinstance(node, Block) and any(
            value.signature.sees_context for _, value in node.values
        ):
            return True
    return False


def _each(body: Iterable[Node]) -> Iterator[Node]:
    """Every node of a body at any depth, in no order."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Block):
            for _, inner in node.regions:
                waiting += inner


def runs_at_least_once(node: Loop) -> bool:
    """Whether a loop's items are written down and there are some."""
    items = node.over.of if node.over is not None and node.over.kind == "literal" else ()
    return isinstance(items, (list, tuple, range, str, set, frozenset, dict)) and len(items) > 0


def ports_used(body: Iterable[Node]) -> set[str]:
    """Names of the ports that a body uses."""
    names: set[str] = set()
    for node in _each(body):
        if isinstance(node, StageNode):
            names.update(node.ports)
        elif isinstance(node, Block):
            for _, value in node.values:
                names.update(i.role for i in value.signature.injected if i.is_port)
    return names


def is_exclusive(port: str, adapters: Mapping[str, Any] | Ports | None = None) -> bool:
    """Whether a port takes one stage at a time; its adapter knows best, where there is one."""
    adapter = None if adapters is None or port not in adapters else adapters[port]
    if isinstance(adapter, tuple) and adapter:
        adapter = adapter[0]
    fallback = port not in PORTS or not PORTS[port].concurrent
    concurrent = getattr(adapter, "concurrent", None)
    return fallback if concurrent is None else not concurrent


def is_concurrent(block: Block) -> bool:
    """Whether anything in a block runs on more than one thread."""
    return isinstance(block, (Parallel, FanOut, StreamLoop, AsyncLoop)) or any(
        is_concurrent(node) for _, body in block.regions for node in body if isinstance(node, Block)
    )
