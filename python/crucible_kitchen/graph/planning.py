"""Makes a `Plan`: counts from the configuration, width and critical path from the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible_kitchen.context import View, as_mapping
from crucible_kitchen.errors import Problem
from crucible_kitchen.ports import Ports

from .blocks import Block, Node
from .branches import Case, Switch
from .counts import NEVER, ONCE, Count, Known
from .executors import abandoned
from .facts import facts_of
from .flow import Flow, keys_read
from .keys import keys_written, ports_used
from .order import edges
from .plan import Plan, PlanNode, Timing
from .rules import validate
from .schedule import marked, span, width
from .stage import StageNode
from .together import FanOut
from .values import Value
from .workflow import as_workflow


def plan(
    workflow: object,
    config: object = None,
    adapters: Mapping[str, Any] | Ports | None = None,
    *,
    timings: Mapping[str, Timing] | None = None,
) -> Plan:
    """Check a workflow completely and say what a run will do.

    No stage runs and no adapter is made. What loops go through and what predicates say is asked
    where it depends on the configuration alone.

    Args:
        workflow: value or `Workflow` class.
        config: mapping or pydantic model.
        adapters: as for a run.
        timings: path of a stage, without indices -> how long it took in an earlier run.
    Raises:
        WorkflowError: with every problem of the workflow and its adapters.
    """
    value = as_workflow(workflow)
    given = {} if adapters is None else adapters
    validate(value, {} if config is None else config, given)
    fields = View(as_mapping({} if config is None else config), "config")
    facts = facts_of(value)
    planner = _Planner(fields, facts.flow, given, timings)
    timed = timings is not None
    root = marked(planner.node(value, value.name, ONCE), timed)
    used = sorted(ports_used([value]) | ({"metrics_store"} & set(given)))
    return Plan(
        root=root,
        ports={name: _adapter_name(given, name) for name in used},
        config_keys=tuple(key for key in fields if key in facts.flow.keys_read()),
        width=width(root),
        critical_s=span(root, timed) if timed else None,
        sequential_s=root.seconds,
        warnings=tuple(planner.warnings),
    )


def _adapter_name(adapters: Mapping[str, Any] | Ports, port: str) -> str | None:
    if port not in adapters:
        return None
    given: Any = adapters[port]
    made = given[0] if isinstance(given, tuple) else given
    kind = made if isinstance(made, type) else type(made)
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass
class _Planner:
    config: View
    flow: Flow
    adapters: Mapping[str, Any] | Ports
    timings: Mapping[str, Timing] | None
    warnings: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        written = frozenset(w.declared for ws in self.flow.writers.values() for w in ws)
        self._known = Known(self.config, written, self.flow.opaque, self._failed)
        self._here = ("", "")

    def _failed(self, value: Value, error: Exception) -> None:
        path, source = self._here
        message = f"{value} failed for this configuration with {type(error).__name__}: {error}"
        self.warnings.append(Problem("value-fails", path, message, value.source or source))

    def node(self, node: Node, path: str, runs: Count) -> PlanNode:
        """Plan one node and all that is in it."""
        if isinstance(node, Block):
            return self._block(node, path, runs)
        assert isinstance(node, StageNode)  # anything else has not passed validation
        if message := abandoned(node):
            self.warnings.append(Problem("timeout", path, message, node.source))
        return self._made(
            (node,), node.kind, path, node.name, node.source, runs, self._seconds(path, runs)
        )

    def _block(self, block: Block, path: str, runs: Count) -> PlanNode:
        self._here = path, block.source
        inside = self._known.inside(block)
        first, *others = block.regions
        each = runs.times(inside[""])
        children = self._body(block, first[1], path, each)
        for label, body in others:
            below = f"{path}/{label}"
            count = runs.times(inside[label])
            within = self._body(block, body, below, count)
            children.append(
                self._made(
                    body,
                    label,
                    below,
                    label,
                    block.source,
                    count,
                    self._sum(within),
                    children=tuple(within),
                    order=edges(body, self.adapters),
                )
            )
        copies = getattr(block, "max_concurrency", None)
        if isinstance(block, FanOut) and inside[""].most is not None:
            copies = min(copies or inside[""].most, inside[""].most)
        return self._made(
            (block,),
            block.kind,
            path,
            _title(block),
            block.source,
            runs,
            self._sum(children),
            children=tuple(children),
            order=edges(first[1], self.adapters),
            copies=copies,
        )

    def _body(self, block: Block, body: tuple[Node, ...], path: str, runs: Count) -> list[PlanNode]:
        children = []
        for node in body:
            count = runs
            if isinstance(block, Switch) and isinstance(node, Case):
                count = runs.times(self._known.case(block, node))
            children.append(self.node(node, f"{path}/{node.name}", count))
        return children

    def _seconds(self, path: str, runs: Count) -> float | None:
        """What a stage will take in all; as often as before where nobody knows how often."""
        if self.timings is None:
            return None
        if runs == NEVER:
            return 0.0
        timing = self.timings.get(path)
        if timing is None or timing.runs == 0:
            return None
        number = timing.runs if runs.exact is None else runs.exact
        return timing.seconds / timing.runs * number

    def _sum(self, children: list[PlanNode]) -> float | None:
        if self.timings is None:
            return None
        return sum(child.seconds or 0.0 for child in children)

    def _made(
        self,
        body: tuple[Node, ...],
        kind: str,
        path: str,
        title: str,
        source: str,
        runs: Count,
        seconds: float | None,
        **more: Any,
    ) -> PlanNode:
        reads, writes = (tuple(dict.fromkeys(keys(body))) for keys in (keys_read, keys_written))
        ports = tuple(sorted(ports_used(body)))
        return PlanNode(path, kind, title, source, runs, reads, writes, ports, seconds, **more)


def _title(block: Block) -> str:
    """A block in a few words, such as ``loop epochs over range(3)``."""
    asks = " ".join(f"{option.rstrip('_')} {value}" for option, value in block.values)
    if not block.named:
        return f"{block.kind} {asks.partition(' ')[2]}" if asks else f"{block.kind} {block.name}"
    return f"{block.kind} {block.name} {asks}".rstrip()
