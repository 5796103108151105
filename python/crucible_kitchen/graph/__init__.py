"""Workflows as values: declare them, look at them, check them. Nothing here runs anything."""

from .blocks import Alien, Block, Node, walk
from .branches import Case, Switch, When, case, switch, when
from .describe import describe
from .loops import AsyncLoop, Loop, StreamLoop, async_loop, loop, stream_loop
from .plan import Estimate, Plan, PlanNode, Timing
from .planning import plan
from .retry import Retry
from .rules import find_problems, validate
from .stage import Stage, StageNode, stage
from .together import FanOut, Parallel, Scope, fan_out, parallel, scope
from .workflow import Workflow, as_workflow, workflow

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
