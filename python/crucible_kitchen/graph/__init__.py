"""Workflows as values: declare them, look at them, check them. Nothing here runs anything.

`Stage` loads when it is first used: it needs pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .blocks import Alien, Block, Node, walk
from .branches import Case, Switch, When, case, switch, when
from .describe import describe
from .loops import AsyncLoop, Loop, StreamLoop, async_loop, loop, stream_loop
from .plan import Estimate, Plan, PlanNode, Timing
from .planning import plan
from .retry import Retry
from .rules import find_problems, validate
from .stage import StageNode, stage
from .together import FanOut, Parallel, Scope, fan_out, parallel, scope
from .workflow import Workflow, as_workflow, workflow

if TYPE_CHECKING:
    from .class_stage import Stage

__all__ = [
    "Alien",
    "AsyncLoop",
    "Block",
    "Case",
    "Estimate",
    "FanOut",
    "Loop",
    "Node",
    "Parallel",
    "Plan",
    "PlanNode",
    "Retry",
    "Scope",
    "Stage",
    "StageNode",
    "StreamLoop",
    "Switch",
    "Timing",
    "When",
    "Workflow",
    "as_workflow",
    "async_loop",
    "case",
    "describe",
    "fan_out",
    "find_problems",
    "loop",
    "parallel",
    "plan",
    "scope",
    "stage",
    "stream_loop",
    "switch",
    "validate",
    "walk",
    "when",
    "workflow",
]


def __getattr__(name: str) -> Any:
    if name == "Stage":
        from .class_stage import Stage

        globals()[name] = Stage
        return Stage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
