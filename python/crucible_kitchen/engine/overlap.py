"""Neighbours that do not depend on each other run at the same time, where that pays.

Whatever runs beside something else runs on a fork, and forks are joined in the order of the text.
So the state, the metrics and the error of a run are those of one stage after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from crucible_kitchen.graph import Node

from .journal import group_name
from .order import Order
from .race import CompileNodes, Forked, Race
from .runtime import Runtime
from .stages import Step

LONG_S = 0.0005
"""What is shorter is not worth a thread."""


def overlapped(
    body: tuple[Node, ...], rt: Runtime, compile_nodes: CompileNodes
) -> tuple[Step, ...]:
    """The steps of a body, with each group of nodes that may overlap as one step.

    Args:
        body: its nodes.
        rt: of the body.
        compile_nodes: gives the closures of some nodes in `rt`, or in a fork of it.
    """
    # A journal may stand in a group, however many may run at once now.
    alone = rt.width == 1 and rt.strand is None
    found = () if alone else rt.facts.groups(body, rt.ports)
    steps: list[Step] = []
    behind = 0
    for group in found:
        end = group.start + len(group.waits)
        # Other adapters may make other groups of the same body.
        key = id(body), group, rt.strand is not None
        order = rt.facts.orders.get(key)
        if order is None:
            order = rt.facts.orders[key] = Order(group.waits, apart=rt.strand is not None)
        together = _Together(body[group.start : end], order, rt, compile_nodes)
        steps += (*compile_nodes(body[behind : group.start], rt), together.run)
        behind = end
    return (*steps, *compile_nodes(body[behind:], rt))


class _Together:
    """A group of nodes: one after the other while they are short, else at once.

    Nothing is compiled before it is needed: the first stages run while others are compiled.

    Args:
        nodes: of the group.
        order: what waits for what.
        rt: of the body.
        compile_nodes: gives the closures of some nodes.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        order: Order,
        rt: Runtime,
        compile_nodes: CompileNodes,
    ) -> None:
        self._nodes, self._order = nodes, order
        self._rt, self._compile = rt, compile_nodes
        self._name = group_name(nodes[0].name, nodes[-1].name)
        self._steps: tuple[Step, ...] = ()  # for one after the other
        self._forked: list[Forked] = []  # for all at once
        # Seconds, one after the other, beyond which they are not short; negative: they run at once.
        self._limit = -1.0
        self._choose()

    def run(self) -> None:
        strand = self._rt.strand
        if strand is not None and strand.target is not None:
            where = self._rt.prefix + self._name
            if strand.target != where:  # stopped in one of them, one after the other, or elsewhere
                self._one_by_one()
            elif not strand.is_past(where):
                self._at_once()
        elif self._limit < 0 and self._rt.width != 1:
            self._at_once()
            self._choose()
        else:
            began = perf_counter()
            self._one_by_one()
            if perf_counter() - began > self._limit:  # not as short as they were
                self._order.forget()
                self._limit = -1.0

    def _at_once(self) -> None:
        strand, where = self._rt.strand, self._rt.prefix + self._name
        if strand is not None:
            strand.enter(where)
        Race(self._order, self._rt).run(self._parts)
        if strand is not None:
            strand.leave(where)

    def _parts(self) -> Sequence[Forked]:
        if not self._forked:
            parts = [self._nodes[start:end] for start, end in self._order.parts]
            self._forked = [Forked(nodes, self._rt.fork(), self._compile) for nodes in parts]
        return self._forked

    def _one_by_one(self) -> None:
        if not self._steps:
            self._steps = self._compile(self._nodes, self._rt)
        for step in self._steps:
            step()

    def _choose(self) -> None:
        """One after the other where no two that are free of each other both take long."""
        self._limit = -1.0 if self._order.pays(LONG_S) else 2 * self._order.sum() + LONG_S
