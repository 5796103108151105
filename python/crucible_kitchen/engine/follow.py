"""Closures that keep a strand informed of where it is: around every stage and every block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import (
    AsyncLoop,
    Block,
    FanOut,
    Loop,
    Node,
    Parallel,
    Scope,
    StageNode,
    Switch,
    When,
)
from crucible_kitchen.graph.annotations import runtime_classes
from crucible_kitchen.graph.keys import ports_used, sees_anything

from .stages import Step

if TYPE_CHECKING:
    from .runtime import Runtime


_FOLLOWED = (When, Switch, Loop, Parallel, FanOut, Scope)


def followed(node: Node, step: Step, rt: Runtime) -> Step:
    """The closure of a node, for a run that keeps a journal."""
    if isinstance(node, StageNode):
        return _stage(node, step, rt)
    followable = isinstance(node, _FOLLOWED) and not isinstance(node, AsyncLoop)
    return _block(node, step, rt) if followable else _whole(node, step, rt)


def _stage(node: StageNode, step: Step, rt: Runtime) -> Step:
    strand = rt.strand
    assert strand is not None
    name, source = node.name, node.source
    writes = dict.fromkeys(write.key for write in node.writes)
    recorder = strand.recorder
    used, every = _used(node, recorder.vault.keepers), recorder.every
    reads = [read.key for read in node.reads]
    written = [kind for write in node.writes for kind in runtime_classes(write.type) or ()]
    makes = any(map(recorder.vault.is_handle, written))

    def run() -> None:
        if strand.target is not None and strand.skips(rt.prefix + name):
            return
        if used:
            strand.uses(used, reads, makes=makes)
        step()
        path = rt.prefix + name
        done = recorder.finished_stages + 1
        if not used and done - strand.committed_stages < every:
            # As `Strand.finished` does between two commits, without the call, which costs more.
            strand.touched.update(writes)
            strand.at, strand.inside, strand.pending = path, False, False
            recorder.finished_stages = done
            return
        try:
            strand.finished(path, writes)
        except CrucibleError as error:
            raise rt.failure(path, source, error) from error

    return run


def _block(node: Node, step: Step, rt: Runtime) -> Step:
    strand = rt.strand
    assert strand is not None
    name = node.name
    values = [value for _, value in node.values] if isinstance(node, Block) else []
    asked = {one.role for value in values for one in value.signature.injected}
    used = frozenset(asked & set(strand.recorder.vault.keepers))
    reads = [read.key for value in values for read in value.reads]

    def run() -> None:
        if strand.target is not None and strand.is_past(rt.prefix + name):
            return
        if used:
            strand.uses(used, reads)
        depth = len(strand.loops)
        step()
        del strand.loops[depth:]

    return run


def _whole(node: Node, step: Step, rt: Runtime) -> Step:
    """A block that is done or not, such as `async_loop`: nothing is written down while it runs."""
    strand = rt.strand
    assert strand is not None
    name = node.name
    anything, ports = sees_anything([node]), ports_used([node])
    used = frozenset(one for one in strand.recorder.vault.keepers if anything or one in ports)

    def run() -> None:
        if strand.target is not None and strand.skips(rt.prefix + name):
            return
        if used:
            strand.uses(used, ())
        before, new = dict(rt.state), object()
        rt.strand = None  # nothing inside is followed
        try:
            step()
        finally:
            rt.strand = strand
        changed = {key: None for key, v in rt.state.items() if before.get(key, new) is not v}
        path = rt.prefix + name
        try:
            strand.finished(path, changed)
        except CrucibleError as error:
            raise rt.failure(path, node.source, error) from error

    return run


def _used(node: StageNode, keepers: tuple[str, ...]) -> frozenset[str]:
    """Ports with handles that a stage may change: those it names, or all where it sees them all."""
    anything = node.of_class or node.signature.sees_context
    return frozenset(name for name in keepers if anything or name in node.ports)
