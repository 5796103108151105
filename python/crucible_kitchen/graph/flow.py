"""What is written where: which keys are certain or possible at each point of the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .blocks import ERROR_KEYS, Block, Loop, Node, When, Workflow, walk
from .signature import Read
from .stage import StageNode


@dataclass(frozen=True)
class Writer:
    """One place that writes a key."""

    name: str
    path: str
    source: str
    type: Any


@dataclass
class Use:
    """One read of a key, with what is known of the state at that point.

    Args:
        node: that reads.
        path: of the node.
        read: key and type.
        status: ``certain`` (written on every path to here), ``some-paths``, ``later`` or ``never``.
        after_opaque: whether a stage that may write anything can run before.
        loops: names of the loops around the read.
        region: ``on_error`` or ``finally`` where it stands in one of them, else empty.
    """

    node: Node
    path: str
    source: str
    read: Read
    status: str
    after_opaque: bool
    loops: tuple[str, ...]
    region: str


@dataclass
class Flow:
    """Every write and every read of a workflow."""

    writers: dict[str, list[Writer]] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    loops: set[str] = field(default_factory=set)
    opaque: bool = False
    reads_anything: bool = False

    def keys_read(self) -> set[str]:
        return {use.read.key for use in self.uses}


@dataclass
class _Known:
    """What is known at one point: keys certainly written, keys possibly written, opaque before."""

    certain: set[str]
    possible: set[str]
    opaque: bool

    def copy(self) -> _Known:
        return _Known(set(self.certain), set(self.possible), self.opaque)


def analyse(workflow: Workflow) -> Flow:
    """Follow the text of a workflow once and note every read and write."""
    flow = Flow()
    for path, node in walk(workflow):
        if isinstance(node, StageNode):
            flow.opaque |= node.opaque
            flow.reads_anything |= node.opaque or node.signature.sees_context
            for write in node.writes:
                writer = Writer(node.name, path, node.source, write.type)
                flow.writers.setdefault(write.key, []).append(writer)
        elif isinstance(node, Loop):
            flow.loops.add(node.name)
        if isinstance(node, Block):
            flow.reads_anything |= any(value.signature.sees_context for _, value in node.values)
    known = _Known(set(), set(), False)
    _Walker(flow).block(workflow.body, workflow.name, known, (), "")
    for region, body in workflow.regions[1:]:
        # They also run when the very first stage failed, so nothing is certain there.
        certain = set(ERROR_KEYS) if region == "on_error" else set()
        anything = _Known(certain, set(flow.writers), flow.opaque)
        _Walker(flow).block(body, f"{workflow.name}/{region}", anything, (), region)
    return flow


class _Walker:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def block(
        self, body: Iterable[Node], path: str, known: _Known, loops: tuple[str, ...], region: str
    ) -> None:
        """Follow the nodes of one body, adding to `known` what they write."""
        for node in body:
            here = f"{path}/{node.name}"
            if isinstance(node, StageNode):
                self._uses(node, here, node.source, node.reads, known, loops, region)
                for write in node.writes:
                    known.certain.add(write.key)
                    known.possible.add(write.key)
                known.opaque |= node.opaque
            elif isinstance(node, Loop):
                self._loop(node, here, known, loops, region)
            elif isinstance(node, When):
                self._when(node, here, known, loops, region)

    def _loop(
        self, node: Loop, path: str, known: _Known, loops: tuple[str, ...], region: str
    ) -> None:
        inside = known.copy()
        if node.while_ is not None:
            # Asked before the first iteration, so nothing of the body is certain to it.
            self._uses(node, path, node.source, node.while_.reads, known, loops, region)
        if node.over is not None:
            self._uses(node, path, node.source, node.over.reads, known, loops, region)
        inside.certain.update(node.variables)
        written = set(keys_written(node.body))
        inside.possible |= written
        inside.opaque |= any_opaque(node.body)
        self.block(node.body, path, inside, (*loops, node.name), region)
        known.opaque |= inside.opaque
        known.possible |= written
        if runs_at_least_once(node):
            known.certain |= inside.certain - set(node.variables)

    def _when(
        self, node: When, path: str, known: _Known, loops: tuple[str, ...], region: str
    ) -> None:
        self._uses(node, path, node.source, node.predicate.reads, known, loops, region)
        yes, no = known.copy(), known.copy()
        self.block(node.body, path, yes, loops, region)
        self.block(node.otherwise_body or (), f"{path}/otherwise", no, loops, region)
        known.certain |= yes.certain & no.certain
        known.possible |= yes.possible | no.possible
        known.opaque |= yes.opaque | no.opaque

    def _uses(
        self,
        node: Node,
        path: str,
        source: str,
        reads: Iterable[Read],
        known: _Known,
        loops: tuple[str, ...],
        region: str,
    ) -> None:
        for read in reads:
            if read.key in known.certain:
                status = "certain"
            elif read.key in known.possible:
                status = "some-paths"
            else:
                status = "later" if read.key in self.flow.writers else "never"
            self.flow.uses.append(
                Use(node, path, source, read, status, known.opaque, loops, region)
            )


def runs_at_least_once(node: Loop) -> bool:
    """Whether a loop's items are written down and there are some."""
    items = node.over.of if node.over is not None and node.over.kind == "literal" else ()
    return isinstance(items, (list, tuple, range, str, set, frozenset, dict)) and len(items) > 0


def keys_written(body: Iterable[Node]) -> Iterator[str]:
    """Keys declared as written anywhere in a body."""
    for node in body:
        for _, inner in walk(node):
            if isinstance(inner, StageNode):
                for write in inner.writes:
                    yield write.key


def keys_read(body: Iterable[Node]) -> Iterator[str]:
    """Keys read anywhere in a body, by stages and by what blocks ask for."""
    for node in body:
        for _, inner in walk(node):
            if isinstance(inner, StageNode):
                yield from (read.key for read in inner.reads)
            elif isinstance(inner, Block):
                yield from (read.key for _, value in inner.values for read in value.reads)


def any_opaque(body: Iterable[Node]) -> bool:
    """Whether a stage in a body may write anything."""
    return any(
        isinstance(inner, StageNode) and inner.opaque for node in body for _, inner in walk(node)
    )


def carried(node: Loop) -> tuple[str, ...]:
    """Keys that one iteration hands to the next: read before they are written in the body."""
    flow = Flow()
    known = _Known(set(node.variables), set(), False)
    for key in keys_written(node.body):
        flow.writers.setdefault(key, [])
    walker = _Walker(flow)
    if node.while_ is not None:
        walker._uses(node, "", "", node.while_.reads, known, (), "")
    walker.block(node.body, "", known, (), "")
    written = set(flow.writers)
    return tuple(
        dict.fromkeys(
            use.read.key for use in flow.uses if use.status != "certain" and use.read.key in written
        )
    )
