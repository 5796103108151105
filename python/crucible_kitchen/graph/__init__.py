"""Workflows as values: declare them, look at them, check them. Nothing here runs anything."""

from .blocks import (
    Alien,
    Block,
    Loop,
    Node,
    When,
    Workflow,
    as_workflow,
    loop,
    walk,
    when,
    workflow,
)
from .describe import describe
from .retry import Retry
from .rules import find_problems, validate
from .stage import Stage, StageNode, stage

__all__ = [
    "Alien",
    "Block",
    "Loop",
    "Node",
    "Retry",
    "Stage",
    "StageNode",
    "When",
    "Workflow",
    "as_workflow",
    "describe",
    "find_problems",
    "loop",
    "stage",
    "validate",
    "walk",
    "when",
    "workflow",
]
