"""Which nodes of a body may run at the same time, so that nothing tells it from one by one.

The edges of `order` say what the declarations mean. More rules keep the order of the text where
declarations cannot say enough. A stage that writes no key is there for what it does to the world,
so it stays behind the one before it; and one that declares nothing, or is a class and is handed the
whole context, stays behind everything. And where a port's own class takes one stage at a time, its
stages keep their order even on an adapter that takes several: what they ask for changes a session,
as `forward_backward` and `optim_step` do. For `parallel` the word of the adapter is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from crucible_kitchen.ports import Ports

from .blocks import Block, Node, walk
from .branches import Switch
from .flow import keys_read
from .keys import is_exclusive, ports_used
from .order import touches
from .stage import StageNode
from .together import Parallel, Scope


class Group(NamedTuple):
    """Neighbours in a body of which some may run at the same time.

    Args:
        start: place of the first one in the body.
        waits: for each of them a bit set of those of the group that must be over before it begins;
            what must be over before one of those may be left out.
    """

    start: int
    waits: tuple[int, ...]


def groups(
    body: Sequence[Node], adapters: Mapping[str, Any] | Ports | None = None
) -> tuple[Group, ...]:
    """The parts of a body in which something may overlap, as small as can be."""
    if len(body) < 2:
        return ()
    waits = _waits(body, adapters)
    # Bit sets of all that comes before each node, also by way of others.
    before: list[int] = []
    for direct in waits:
        everything = direct
        while direct:
            lowest = direct & -direct
            everything |= before[lowest.bit_length() - 1]
            direct ^= lowest
        before.append(everything)
    found = []
    start = 0
    cuts = _cuts(before)
    for end in [*cuts, len(body)]:
        if end - start > 1:
            mask = (1 << (end - start)) - 1
            inside = tuple(waits[place] >> start & mask for place in range(start, end))
            found.append(Group(start, inside))
        start = end
    return tuple(found)


def may_overlap(block: Block, adapters: Mapping[str, Any] | Ports | None = None) -> bool:
    """Whether anything in a block, at any depth, may run beside something else unasked."""
    for label, body in block.regions:
        apart = isinstance(block, (Parallel, Switch)) or label in ("finally", "on_error")
        if not apart and groups(body, adapters):
            return True
        if any(isinstance(node, Block) and may_overlap(node, adapters) for node in body):
            return True
    return False


class _Here(NamedTuple):
    """What a node touches, with what its declarations do not say.

    Args:
        effects: whether a stage in it writes no key.
        barrier: whether it keeps its place among all.
    """

    reads: Set[str]
    writes: Set[str]
    ports: Set[str]
    effects: bool
    barrier: bool


def _look(node: Node, adapters: Mapping[str, Any] | Ports | None) -> _Here:
    if isinstance(node, StageNode):  # as below, for the many nodes that need no walk
        stage = node
        return _Here(
            {read.key for read in stage.reads},
            {write.key for write in stage.writes},
            {port for port in stage.ports if keeps_order(port, adapters)},
            not stage.writes,
            _keeps_its_place(stage),
        )
    reads, writes, _, anything = touches(node)
    ports = {port for port in ports_used([node]) if keeps_order(port, adapters)}
    stages = [inner for _, inner in walk(node) if isinstance(inner, StageNode)]
    effects = any(not stage.writes for stage in stages)
    barrier = anything or any(map(_keeps_its_place, stages))
    return _Here(reads | set(_names_in_scopes(node)), writes, ports, effects, barrier)


def _names_in_scopes(node: Node) -> Iterator[str]:
    """Keys read in scopes, as an earlier scope of the same name may have written them."""
    if not isinstance(node, Block):
        return
    inside = {
        name for _, body in node.regions for child in body for name in _names_in_scopes(child)
    }
    yield from inside
    if isinstance(node, Scope):
        yield from (node.prefix + key for key in {*keys_read(node.body), *inside})


def keeps_order(port: str, adapters: Mapping[str, Any] | Ports | None) -> bool:
    """Whether stages that use a port stay in the order of the text."""
    return is_exclusive(port) or is_exclusive(port, adapters)


def _keeps_its_place(stage: StageNode) -> bool:
    if stage.of_class or stage.signature.sees_context or stage.executor == "inline":
        return True
    return not (stage.reads or stage.writes or stage.ports)


def _waits(body: Sequence[Node], adapters: Mapping[str, Any] | Ports | None) -> tuple[int, ...]:
    """Bit sets of the nodes behind which each one stays; linear in the length of the body."""
    waits: list[int] = []
    named: dict[str, int] = {}
    wrote: dict[str, int] = {}  # who wrote a key last
    read: dict[str, int] = {}  # who has read it since
    used: dict[str, int] = {}
    effects = barrier = since = 0
    for place, node in enumerate(body):
        own, here = 1 << place, _look(node, adapters)
        before = since if here.barrier else barrier | (effects if here.effects else 0)
        for key in here.reads | here.writes:
            before |= wrote.get(key, 0)
        for key in here.writes:
            before |= read.get(key, 0)
        for port in here.ports:
            before |= used.get(port, 0)
        for name in getattr(node, "after", ()):
            before |= named.get(name, 0)
        waits.append(before)
        named[node.name] = own
        for key in here.reads:
            read[key] = read.get(key, 0) | own
        for key in here.writes:
            wrote[key], read[key] = own, 0
        used.update(dict.fromkeys(here.ports, own))
        effects = own if here.effects else effects
        barrier, since = (own, own) if here.barrier else (barrier, since | own)
    return tuple(waits)


def _cuts(before: Sequence[int]) -> list[int]:
    """Places before which everything is over when what stands there or later begins."""
    cuts = []
    least = len(before)
    for place in reversed(range(len(before))):
        missing = ~before[place] & ((1 << place) - 1)
        first_missing = (missing & -missing).bit_length() - 1 if missing else place
        least = min(least, first_missing)
        if least >= place > 0:
            cuts.append(place)
    return cuts[::-1]
