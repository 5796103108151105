"""Closures that keep a strand informed of where it is: around every stage and every block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import AsyncLoop, Block, Node, StageNode
from crucible_kitchen.graph.annotations import runtime_classes

from .stages import Step

if TYPE_CHECKING:
    from .runtime import Runtime


def followed(node: Node, step: Step, rt: Runtime) -> Step:
    """The closure of a node, for a run that keeps a journal."""
    if isinstance(node, StageNode):
        return _stage(node, step, rt)
    return _block(node, step, rt)


def _stage(node: StageNode, step: Step, rt: Runtime) -> Step:
    strand = rt.strand
    assert strand is not None
    name, source = node.name, node.source
    writes = dict.fromkeys(write.key for write in node.writes)
    recorder = strand.recorder
    used, every = _used(node, recorder.vault.changing), recorder.every
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
    values = [
        value
        for option, value in (node.values if isinstance(node, Block) else ())
        if not (isinstance(node, AsyncLoop) and option == "producer")  # has a strand of its own
    ]
    asked = {one.role for value in values for one in value.signature.injected}
    used = frozenset(asked & set(strand.recorder.vault.changing))
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


def _used(node: StageNode, keepers: tuple[str, ...]) -> frozenset[str]:
    """Ports with handles that a stage may change: those it names, or all where it sees them all."""
    anything = node.of_class or node.signature.sees_context
    return frozenset(name for name in keepers if anything or name in node.ports)
