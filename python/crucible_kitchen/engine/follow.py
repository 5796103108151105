"""What a run that keeps a journal does around every stage and every block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.graph import AsyncLoop, Block, Node, StageNode
from crucible_kitchen.graph.annotations import runtime_classes

if TYPE_CHECKING:
    from .runtime import Runtime
    from .stages import Step

Before = Callable[[], None] | None
"""Called before a stage that may change what adapters hold; None for any other one."""
After = Callable[[str], None] | None
"""Called with the id of a stage that has done its work; None where nobody keeps a journal."""


def around(node: StageNode, rt: Runtime) -> tuple[Before, After]:
    """What a strand is told of each execution of a stage."""
    if rt.strand is None:
        return None, None
    return _before(node, rt), _after(node, rt)


def _before(node: StageNode, rt: Runtime) -> Before:
    strand = rt.strand
    assert strand is not None
    vault = strand.recorder.vault
    # Class stages and those that see the context may use any port.
    anything = node.of_class or node.signature.sees_context
    used = frozenset(name for name in vault.changing if anything or name in node.ports)
    if not used:
        return None
    reads = [read.key for read in node.reads]
    written = [kind for write in node.writes for kind in runtime_classes(write.type) or ()]
    makes = any(map(vault.is_handle, written))
    return lambda: strand.uses(used, reads, makes=makes)


def _after(node: StageNode, rt: Runtime) -> After:
    strand = rt.strand
    assert strand is not None
    source, recorder, every = node.source, strand.recorder, strand.recorder.every
    writes = dict.fromkeys(write.key for write in node.writes)

    def after(where: str) -> None:
        done = recorder.finished_stages + 1
        if done - strand.committed_stages < every:
            # As `Strand.finished` does between two commits, without the call, which costs more.
            strand.touched.update(writes)
            strand.at, strand.inside, strand.pending = where, False, False
            recorder.finished_stages = done
            return
        try:
            strand.finished(where, writes)
        except CrucibleError as error:
            raise rt.failure(where, source, error) from error

    return after


def followed(node: Node, step: Step, rt: Runtime) -> Step:
    """The closure of a block, for a run that keeps a journal."""
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
