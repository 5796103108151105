"""`Facts`: what the text of a workflow says by itself, found out once for each value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from crucible_kitchen.errors import Problem
from crucible_kitchen.ports import Ports

from .blocks import ERROR_KEYS, Block, Node, walk
from .flow import Flow, Use, Writer, analyse
from .keys import ports_used
from .loops import Loop
from .overlap import Group, groups, keeps_order
from .stage import StageNode
from .workflow import Workflow

_GROWING = (list, set, dict)


class Facts:
    """What depends on no configuration and on no adapters; made by `facts_of`.

    Args:
        workflow: that it is about.

    Attributes:
        nodes: every node with its path.
        flow: every write and every read.
        ports: names of the ports that are used.
        problems: what is wrong with the text, None until it has been checked.
        orders: id of a body, a group in it, and whether a journal is kept -> in which order its
            parts may run, and what each took when it ran last; noted by those who run them.
        calls: id of a stage -> what running it takes, where that is the same in every run; noted by
            those who run them, together with the stage, so that its id stays its own.
    """

    def __init__(self, workflow: Workflow) -> None:
        self.nodes: tuple[tuple[str, Node], ...] = tuple(walk(workflow))
        self.flow: Flow = analyse(workflow)
        self.ports = frozenset(ports_used([workflow]))
        self.problems: tuple[Problem, ...] | None = None
        self.orders: dict[tuple[int, Group, bool], Any] = {}
        self.calls: dict[int, Any] = {}
        self._groups: dict[tuple[int, frozenset[str]], _Cut] = {}
        overs = [node.over for _, node in self.blocks if isinstance(node, Loop) and node.over]
        self._growing = [over.of for over in overs if isinstance(over.of, _GROWING)]
        self._filled = self._are_filled()

    def _are_filled(self) -> list[bool]:
        return [bool(items) for items in self._growing]

    @property
    def hold(self) -> bool:
        """Whether they still do: a list that a loop goes through may have got its first item."""
        return self._are_filled() == self._filled

    @cached_property
    def blocks(self) -> tuple[tuple[str, Block], ...]:
        """The nodes that are blocks."""
        return tuple((path, node) for path, node in self.nodes if isinstance(node, Block))

    @cached_property
    def stages(self) -> tuple[tuple[str, StageNode], ...]:
        """The nodes that are stages."""
        return tuple((path, node) for path, node in self.nodes if isinstance(node, StageNode))

    @cached_property
    def in_processes(self) -> tuple[tuple[str, StageNode], ...]:
        """The stages that are to run in another process."""
        return tuple((path, node) for path, node in self.stages if node.executor == "process")

    @cached_property
    def open_uses(self) -> tuple[Use, ...]:
        """Reads that only the configuration can satisfy."""
        return tuple(
            use
            for use in self.flow.uses
            if use.status != "certain"
            and use.read.required
            and not use.after_opaque
            and misplaced(use, self.flow) is None
        )

    @cached_property
    def uses(self) -> Mapping[str, list[Use]]:
        """Reads by their key."""
        found: dict[str, list[Use]] = {}
        for use in self.flow.uses:
            found.setdefault(use.read.key, []).append(use)
        return found

    @cached_property
    def declared(self) -> Mapping[str, list[Writer]]:
        """Writers by the key as they name it."""
        found: dict[str, list[Writer]] = {}
        for writers in self.flow.writers.values():
            for writer in writers:
                found.setdefault(writer.declared, []).append(writer)
        return found

    def groups(
        self, body: tuple[Node, ...], adapters: Mapping[str, Any] | Ports
    ) -> tuple[Group, ...]:
        """`overlap.groups` of a body of the workflow."""
        if len(body) < 2:
            return ()
        ordered = frozenset(port for port in self.ports if keeps_order(port, adapters))
        key = id(body), ordered
        if key not in self._groups:
            self._groups[key] = _Cut(body, groups(body, adapters))
        return self._groups[key].groups


class _Cut(NamedTuple):
    """The groups of a body, which is kept so that its id stays its own."""

    body: tuple[Node, ...]
    groups: tuple[Group, ...]


TextRule = Callable[[Facts], Iterator[Problem]]
"""A rule of validation that looks at nothing but the text."""

_FACTS = "_facts"


def facts_of(workflow: Workflow) -> Facts:
    """What the text of a workflow says; it is found out once, kept with the value and goes with it.

    Another value, equal or not, has facts of its own.
    """
    facts: Facts | None = vars(workflow).get(_FACTS)
    if facts is None or not facts.hold:
        # A value does not change by what is known of it.
        facts = vars(workflow)[_FACTS] = Facts(workflow)
    return facts


def misplaced(use: Use, flow: Flow) -> str | None:
    """What a key that exists inside it only is read outside of; None where all is well."""
    key = use.read.key
    loop_name = key.rpartition(".")[0]
    if not loop_name:  # most keys have no dot
        return None
    if key.endswith((".item", ".index")) and loop_name in flow.loops:
        return None if loop_name in use.loops else loop_name
    return ".on_error" if key in ERROR_KEYS and use.region != "on_error" else None
