"""What is written where: which keys are certain or possible at each point of the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .blocks import ERROR_KEYS, Block, Node
from .branches import Switch, When
from .keys import any_opaque, keys_written, runs_at_least_once, sees_anything
from .loops import Loop
from .signature import Read
from .stage import StageNode
from .together import FanOut, Parallel, Scope


@dataclass(frozen=True)
class Writer:
    """One place that writes a key.

    Args:
        declared: the key as the stage names it, which differs inside a `scope`.
    """

    name: str
    path: str
    source: str
    type: Any
    declared: str


@dataclass
class Use:
    """One read of a key, with what is known of the state at that point.

    Args:
        node: that reads.
        path: of the node.
        read: key and type.
        keys: what the key may be called outside of the scopes around it, innermost first.
        status: ``certain`` (written on every path to here), ``some-paths``, ``later`` or ``never``.
        after_opaque: whether a stage that may write anything can run before.
        loops: names of the loops around the read.
        region: ``on_error`` or ``finally`` where it stands in one of them, else empty.
    """

    node: Node
    path: str
    source: str
    read: Read
    keys: tuple[str, ...]
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

    certain: set[str] = field(default_factory=set)
    possible: set[str] = field(default_factory=set)
    opaque: bool = False

    def copy(self) -> _Known:
        return _Known(set(self.certain), set(self.possible), self.opaque)

    def inside(self, scope: Scope) -> _Known:
        """The same where the scope's keys have their own names."""
        start, hides = len(scope.prefix), scope.hides
        inner = self.copy()
        for keys in (inner.certain, inner.possible):
            own = {key[start:] for key in keys if key.startswith(scope.prefix)}
            keys -= {key for key in keys if key.startswith(hides)}
            keys |= own
        return inner


@dataclass(frozen=True)
class _At:
    """Where a walk is.

    Args:
        spaces: prefixes of the keys of the scopes around, innermost first; the last is empty.
    """

    loops: tuple[str, ...] = ()
    region: str = ""
    spaces: tuple[str, ...] = ("",)


def analyse(workflow: Block) -> Flow:
    """Follow the text of a workflow once and note every read and write."""
    flow = Flow()
    for _, body in workflow.regions:
        flow.opaque |= any_opaque(body)
        flow.reads_anything |= sees_anything(body)
    _note_writers(workflow, workflow.name, "", flow)
    _Walker(flow).block(workflow.body, workflow.name, _Known(), _At())
    for region, body in workflow.regions[1:]:
        # They also run when the very first stage failed, so nothing is certain there.
        certain = set(ERROR_KEYS) if region == "on_error" else set()
        possible = {key for _, inner in workflow.regions for key in keys_written(inner)}
        anything = _Known(certain, possible, flow.opaque)
        _Walker(flow).block(body, f"{workflow.name}/{region}", anything, _At(region=region))
    return flow


def _note_writers(block: Block, path: str, space: str, flow: Flow) -> None:
    """Note who writes which key, and which loops there are."""
    if isinstance(block, (Loop, FanOut)):
        flow.loops.add(block.name)
    if isinstance(block, FanOut):
        for _, key in block.collect:
            writer = Writer(block.name, path, block.source, list, key)
            flow.writers.setdefault(space + key, []).append(writer)
    space = _space_inside(block, space)
    for label, body in block.regions:
        below = f"{path}/{label}" if label else path
        for node in body:
            here = f"{below}/{node.name}"
            if isinstance(node, StageNode):
                for write in node.writes:
                    writer = Writer(node.name, here, node.source, write.type, write.key)
                    flow.writers.setdefault(space + write.key, []).append(writer)
            elif isinstance(node, Block):
                _note_writers(node, here, space, flow)


def _space_inside(block: Block, space: str) -> str:
    if isinstance(block, Scope):
        return space + block.prefix
    # No key of a user has these brackets: what a copy writes is seen by nobody else.
    return f"{space}{block.name}[]." if isinstance(block, FanOut) else space


class _Walker:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def block(self, body: Iterable[Node], path: str, known: _Known, at: _At) -> None:
        """Follow the nodes of one body, adding to `known` what they write."""
        for node in body:
            here = f"{path}/{node.name}"
            if isinstance(node, StageNode):
                self._uses(node, here, node.reads, known, at)
                for write in node.writes:
                    known.certain.add(write.key)
                    known.possible.add(write.key)
                known.opaque |= node.opaque
            elif isinstance(node, Block):
                for _, value in node.values:  # asked before anything of the body has run
                    self._uses(node, here, value.reads, known, at)
                self._inside(node, here, known, at)

    def _inside(self, node: Block, path: str, known: _Known, at: _At) -> None:
        if isinstance(node, Loop):
            self._loop(node, path, known, at)
        elif isinstance(node, (When, Switch)):
            self._branches(node, path, known, at)
        elif isinstance(node, Parallel):
            self._parallel(node, path, known, at)
        elif isinstance(node, FanOut):
            self._fan_out(node, path, known, at)
        elif isinstance(node, Scope):
            self._scope(node, path, known, at)
        else:
            self.block(node.body, path, known, at)

    def _loop(self, node: Loop, path: str, known: _Known, at: _At) -> None:
        inside = known.copy()
        inside.certain.update(node.variables)
        written = set(keys_written(node.body))
        inside.possible |= written
        inside.opaque |= self._opaque(node.body)
        self.block(node.body, path, inside, replace(at, loops=(*at.loops, node.name)))
        known.opaque |= inside.opaque
        known.possible |= written
        if runs_at_least_once(node):
            known.certain |= inside.certain - set(node.variables)

    def _branches(self, node: When | Switch, path: str, known: _Known, at: _At) -> None:
        bodies: list[tuple[str, tuple[Node, ...]]] = [(path, node.body)]
        if isinstance(node, Switch):
            bodies = [(f"{path}/{one.name}", one.body) for one in node.cases]
        if isinstance(node, When) or node.otherwise_body is not None:
            bodies.append((f"{path}/otherwise", node.otherwise_body or ()))
        ends: list[_Known] = []
        for where, body in bodies:
            ends.append(known.copy())
            self.block(body, where, ends[-1], at)
        if ends:
            known.certain |= set.intersection(*(end.certain for end in ends))
        for end in ends:
            known.possible |= end.possible
            known.opaque |= end.opaque

    def _parallel(self, node: Parallel, path: str, known: _Known, at: _At) -> None:
        for place, member in enumerate(node.body):
            before = known.copy()
            # Members that read each other's keys have a rule of their own.
            before.certain.update(keys_written((*node.body[:place], *node.body[place + 1 :])))
            self.block((member,), path, before, at)
        known.certain |= certainly_written(node.body)
        known.possible.update(keys_written(node.body))
        known.opaque |= self._opaque(node.body)

    def _fan_out(self, node: FanOut, path: str, known: _Known, at: _At) -> None:
        inside = known.copy()
        inside.certain.update(node.variables)
        space = _space_inside(node, at.spaces[0])
        at = replace(at, loops=(*at.loops, node.name), spaces=(space, *at.spaces))
        self.block(node.body, path, inside, at)
        known.certain.update(key for _, key in node.collect)
        known.possible.update(key for _, key in node.collect)

    def _scope(self, node: Scope, path: str, known: _Known, at: _At) -> None:
        inside = known.inside(node)
        space = at.spaces[0] + node.prefix
        self.block(node.body, path, inside, replace(at, spaces=(space, *at.spaces)))
        known.certain |= {node.prefix + key for key in certainly_written(node.body)}
        known.possible |= {node.prefix + key for key in keys_written(node.body)}
        known.opaque |= self._opaque(node.body)

    def _opaque(self, body: Iterable[Node]) -> bool:
        return self.flow.opaque and any_opaque(body)

    def _uses(self, node: Node, path: str, reads: Iterable[Read], known: _Known, at: _At) -> None:
        scoped = len(at.spaces) > 1
        for read in reads:
            keys = tuple(space + read.key for space in at.spaces) if scoped else (read.key,)
            if read.key in known.certain:
                status = "certain"
            elif read.key in known.possible:
                status = "some-paths"
            else:
                written = any(key in self.flow.writers for key in keys)
                status = "later" if written else "never"
            use = Use(
                node, path, node.source, read, keys, status, known.opaque, at.loops, at.region
            )
            self.flow.uses.append(use)


def certainly_written(body: Iterable[Node]) -> set[str]:
    """Keys that a body has written whichever way it went."""
    known = _Known()
    _Walker(Flow()).block(body, "", known, _At())
    return known.certain


def open_reads(body: Iterable[Node]) -> Iterator[str]:
    """Keys that a body may read from outside: those it has not written itself before."""
    flow = Flow()
    _Walker(flow).block(body, "", _Known(), _At())
    return (use.read.key for use in flow.uses if use.status != "certain")


def keys_read(body: Iterable[Node]) -> Iterator[str]:
    """Keys read anywhere in a body, by stages and by what blocks ask for."""
    for node in body:
        if isinstance(node, StageNode):
            yield from (read.key for read in node.reads)
        elif isinstance(node, Block):
            yield from (read.key for _, value in node.values for read in value.reads)
            if isinstance(node, FanOut):
                own = set(node.variables)
                yield from (key for key in open_reads(node.body) if key not in own)
            elif isinstance(node, Scope):
                yield from open_reads(node.body)
                local = set(keys_written(node.body))
                yield from (node.prefix + key for key in keys_read(node.body) if key in local)
            else:
                for _, inner in node.regions:
                    yield from keys_read(inner)


def carried(node: Loop) -> tuple[str, ...]:
    """Keys that one iteration hands to the next: read before they are written in the body."""
    flow = Flow()
    known = _Known(certain=set(node.variables))
    for key in keys_written(node.body):
        flow.writers.setdefault(key, [])
    walker = _Walker(flow)
    for option, value in node.values:
        if option != "over":  # asked again and again, unlike what is gone through
            walker._uses(node, "", value.reads, known, _At())
    walker.block(node.body, "", known, _At())
    written = set(flow.writers)
    return tuple(
        dict.fromkeys(
            use.read.key for use in flow.uses if use.status != "certain" and use.read.key in written
        )
    )
