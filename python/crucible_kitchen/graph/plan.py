"""`Plan`: a validated workflow, ordered, with all that is known of a run before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from crucible_kitchen.errors import Problem

from .counts import Count
from .order import Edge
from .plan_text import text


class Timing(NamedTuple):
    """How long a stage took in an earlier run.

    Args:
        runs: how often it ran.
        seconds: all of them together.
    """

    runs: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run will take, reckoned from a few real steps.

    Args:
        steps: optimizer steps, unless something ends the training early.
        tokens: that are trained.
        seconds: of each part of the run.
        memory_bytes: the most that is held at a time: on a GPU the device's memory, elsewhere the
            process's.
        measured_steps: how many real steps it is reckoned from.
    """

    steps: int
    tokens: int
    seconds: Mapping[str, float]
    memory_bytes: int
    measured_steps: int

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class PlanNode:
    """A stage or a block in a plan.

    Args:
        path: where it stands, without indices.
        kind: as of the workflow's node; of a block's other bodies their label.
        title: the node in a few words.
        runs: how often it runs in the whole run.
        reads, writes: keys.
        ports: that it and what is in it use.
        seconds: what it will take in all, by an earlier run; None without one, or where that run
            had no such stage.
        children: what is in it, in the order of the text; other bodies of a block, such as
            ``otherwise`` and ``finally``, are the last, under that kind.
        order: which child must be over before which, by their places.
        copies: how many children, or copies of them, run at once at most; None where nothing but
            the order bounds it.
        critical: whether it is on the critical path.
    """

    path: str
    kind: str
    title: str
    source: str
    runs: Count
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    ports: tuple[str, ...]
    seconds: float | None
    children: tuple[PlanNode, ...] = ()
    order: tuple[Edge, ...] = ()
    copies: int | None = None
    critical: bool = False

    def walk(self) -> Iterator[PlanNode]:
        """This node and every one in it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Plan:
    """What a run will do, found without running it.

    Args:
        root: the workflow.
        ports: port -> name of its adapter; None where the workflow can do without and has none.
        config_keys: keys of the configuration that something reads.
        width: how many stages can run at once at most; None where it depends on items that are not
            known yet.
        critical_s: seconds of the critical path; None without the times of an earlier run.
        sequential_s: seconds of all stages, one after the other; None likewise.
        warnings: what is not wrong with the workflow, but will not go well.
        estimate: steps, time and memory of a recipe; None where nothing was measured.
    """

    root: PlanNode
    ports: Mapping[str, str | None]
    config_keys: tuple[str, ...]
    width: int | None
    critical_s: float | None = None
    sequential_s: float | None = None
    warnings: tuple[Problem, ...] = ()
    estimate: Estimate | None = None

    @property
    def name(self) -> str:
        """The workflow's."""
        return self.root.path

    @property
    def stages(self) -> tuple[PlanNode, ...]:
        """Every stage, in the order of the text."""
        return tuple(node for node in self.root.walk() if node.kind == "stage")

    @property
    def critical_path(self) -> tuple[str, ...]:
        """Paths of the stages that the run's time depends on: each waits for the one before."""
        return tuple(stage.path for stage in self.stages if stage.critical)

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Keys that stages write, as they are called at the end."""
        return self.root.writes

    def __getitem__(self, path: str) -> PlanNode:
        """The node at a path, or at as much of its end as tells it from others.

        Raises:
            KeyError: there is none, or more than one.
        """
        found = [n for n in self.root.walk() if f"/{n.path}".endswith(f"/{path}")]
        if len(found) != 1:
            raise KeyError(f"plan: {len(found)} nodes are at {path!r}")
        return found[0]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, as JSON can hold it; a count is ``[least, most or null]``."""
        return {
            "name": self.name,
            "width": self.width,
            "critical_path": list(self.critical_path),
            "critical_s": self.critical_s,
            "sequential_s": self.sequential_s,
            "ports": dict(self.ports),
            "config_keys": list(self.config_keys),
            "state_keys": list(self.state_keys),
            "warnings": [asdict(warning) for warning in self.warnings],
            "estimate": None if self.estimate is None else asdict(self.estimate),
            "workflow": _node(self.root),
        }

    def __str__(self) -> str:
        return text(self)


def _node(node: PlanNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "kind": node.kind,
        "title": node.title,
        "source": node.source,
        "runs": [node.runs.least, node.runs.most],
        "reads": list(node.reads),
        "writes": list(node.writes),
        "ports": list(node.ports),
        "seconds": node.seconds,
        "critical": node.critical,
        "order": [edge._asdict() for edge in node.order],
        "children": [_node(child) for child in node.children],
    }
