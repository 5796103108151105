"""Turns a workflow into closures once, so that running it walks no graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crucible_kitchen.graph import (
    FanOut,
    Loop,
    Node,
    Parallel,
    Scope,
    StageNode,
    StreamLoop,
    Switch,
    When,
)

from .blocks import compile_loop, compile_switch, compile_when
from .follow import followed
from .runtime import Runtime
from .stages import Step, compile_stage
from .stream import compile_stream_loop
from .together import compile_fan_out, compile_parallel, compile_scope

_COMPILERS: dict[type, Callable[[Any, Runtime, str], Step]] = {
    StageNode: compile_stage,
    When: lambda node, rt, path: compile_when(node, rt, path, compile_body),
    Switch: lambda node, rt, path: compile_switch(node, rt, path, compile_body),
    Loop: lambda node, rt, path: compile_loop(node, rt, path, compile_body),
    StreamLoop: lambda node, rt, path: compile_stream_loop(node, rt, path, compile_body),
    Scope: lambda node, rt, path: compile_scope(node, rt, path, compile_body),
    Parallel: lambda node, rt, path: compile_parallel(node, rt, path, compile_body),
    FanOut: lambda node, rt, path: compile_fan_out(node, rt, path, compile_body),
}


def compile_body(nodes: Iterable[Node], rt: Runtime, path: str) -> tuple[Step, ...]:
    """One closure a node.

    Args:
        nodes: of one body.
        rt: shared by all closures of the run, or by those of one thread.
        path: of the body, without indices.
    """
    nodes = tuple(nodes)
    steps = tuple(_COMPILERS[type(node)](node, rt, f"{path}/{node.name}") for node in nodes)
    if rt.strand is None:
        return steps
    return tuple(followed(node, step, rt) for node, step in zip(nodes, steps, strict=True))
