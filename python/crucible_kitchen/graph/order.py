"""What must come before what in one body: the order that its text means, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from crucible_kitchen.ports import Ports

from .blocks import Node
from .branches import Case
from .flow import keys_read
from .keys import is_exclusive, keys_written, ports_used, sees_anything
from .stage import StageNode


class Edge(NamedTuple):
    """One node of a body must be over before another one begins.

    Args:
        before, after: their places in the body.
        why: ``read-after-write``, ``write-after-read``, ``write-after-write``, ``same-port``,
            ``after`` or ``barrier``, and more than one where several hold.
        keys: the keys, ports or names behind it.
    """

    before: int
    after: int
    why: tuple[str, ...]
    keys: tuple[str, ...]


class Touches(NamedTuple):
    """Keys and exclusive ports of a node and of all that is in it.

    Args:
        anything: whether it may read or write keys that it does not declare.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    ports: frozenset[str]
    anything: bool


def touches(node: Node, adapters: Mapping[str, Any] | Ports | None = None) -> Touches:
    """What a node has to do with the nodes beside it."""
    exclusive = frozenset(name for name in ports_used([node]) if is_exclusive(name, adapters))
    reads, writes = frozenset(keys_read([node])), frozenset(keys_written([node]))
    return Touches(reads, writes, exclusive, sees_anything([node]))


def edges(
    body: Iterable[Node], adapters: Mapping[str, Any] | Ports | None = None
) -> tuple[Edge, ...]:
    """Every edge of a body, also those that follow from others."""
    found: list[Edge] = []
    earlier: list[tuple[Node, Touches]] = []
    for place, node in enumerate(body):
        here = touches(node, adapters)
        # Of the cases of a switch, only one runs.
        for before, (other, there) in enumerate(() if isinstance(node, Case) else earlier):
            causes = _causes(there, here, other.name)
            if isinstance(node, StageNode) and other.name in node.after:
                causes["after"] = frozenset((other.name,))
            if causes:
                keys = sorted(frozenset[str]().union(*causes.values()))
                found.append(Edge(before, place, tuple(causes), tuple(keys)))
        earlier.append((node, here))
    return tuple(found)


def _causes(first: Touches, then: Touches, name: str) -> dict[str, frozenset[str]]:
    causes = {
        "read-after-write": then.reads & first.writes,
        "write-after-read": then.writes & first.reads,
        "write-after-write": then.writes & first.writes,
        "same-port": then.ports & first.ports,
    }
    if first.anything or then.anything:
        causes["barrier"] = frozenset((name,))
    return {why: keys for why, keys in causes.items() if keys}


def longest(weights: Sequence[float], order: Iterable[Edge]) -> tuple[float, tuple[int, ...]]:
    """The heaviest chain of a body: its weight, and the places of its nodes."""
    before: list[list[int]] = [[] for _ in weights]
    for edge in order:
        before[edge.after].append(edge.before)
    total: list[float] = []
    came: list[int | None] = []
    for place, weight in enumerate(weights):  # the order of the text is one of the graph
        best = max(before[place], key=lambda other: total[other], default=None)
        total.append(weight + (0.0 if best is None else total[best]))
        came.append(best)
    if not total:
        return 0.0, ()
    place_or_none: int | None = max(range(len(total)), key=lambda place: total[place])
    assert place_or_none is not None
    length, chain = total[place_or_none], []
    while place_or_none is not None:
        chain.append(place_or_none)
        place_or_none = came[place_or_none]
    return length, tuple(reversed(chain))


def widest(widths: Sequence[int], order: Iterable[Edge]) -> int:
    """How many of a body's nodes can run at once; each counts as many times as its width.

    By Dilworth's theorem that is the number of chains that cover the body, and a matching of nodes
    with later ones that is as large as can be makes those as few as can be.
    """
    after = [0] * len(widths)  # bit sets of the nodes that come later, also by way of others
    direct: list[list[int]] = [[] for _ in widths]
    for edge in order:
        direct[edge.before].append(edge.after)
    for place in reversed(range(len(widths))):
        for later in direct[place]:
            after[place] |= after[later] | (1 << later)
    matching = _Matching()
    for place, width in enumerate(widths):
        for number in range(width):
            matching.add((place, number), lambda copy: _copies(after[copy[0]], widths))
    return sum(widths) - len(matching.leads)


_Copy = tuple[int, int]


def _copies(places: int, widths: Sequence[int]) -> Iterator[_Copy]:
    while places:
        place = (places & -places).bit_length() - 1
        places &= places - 1
        yield from ((place, number) for number in range(widths[place]))


class _Matching:
    """Pairs of a copy and a later one, no copy twice on one side."""

    def __init__(self) -> None:
        self.leads: dict[_Copy, _Copy] = {}
        self._follows: dict[_Copy, _Copy] = {}

    def add(self, start: _Copy, later: Callable[[_Copy], Iterator[_Copy]]) -> None:
        """Find a copy for `start`, perhaps by giving others another one."""
        came: dict[_Copy, _Copy] = {}
        waiting = [start]
        for copy in waiting:
            for target in later(copy):
                if target in came:
                    continue
                came[target] = copy
                if target not in self._follows:
                    self._change(target, came)
                    return
                waiting.append(self._follows[target])

    def _change(self, target: _Copy | None, came: dict[_Copy, _Copy]) -> None:
        while target is not None:
            copy = came[target]
            self._follows[target] = copy
            before = self.leads.get(copy)
            self.leads[copy] = target
            target = before
