"""Turns a workflow into closures once, so that running it walks no graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crucible_kitchen.graph import (
    AsyncLoop,
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

from .async_loop import compile_async_loop
from .blocks import compile_loop, compile_switch, compile_when
from .follow import followed
from .overlap import overlapped
from .runtime import Runtime
from .stages import Step, compile_stages
from .stream import compile_stream_loop
from .together import compile_fan_out, compile_parallel, compile_scope

_COMPILERS: dict[type, Callable[[Any, Runtime, str], Step]] = {
    When: lambda node, rt, path: compile_when(node, rt, path, compile_body),
    Switch: lambda node, rt, path: compile_switch(node, rt, path, compile_body),
    Loop: lambda node, rt, path: compile_loop(node, rt, path, compile_body),
    StreamLoop: lambda node, rt, path: compile_stream_loop(node, rt, path, compile_body),
    AsyncLoop: lambda node, rt, path: compile_async_loop(node, rt, path, compile_body),
    Scope: lambda node, rt, path: compile_scope(node, rt, path, compile_body),
    Parallel: lambda node, rt, path: compile_parallel(node, rt, path, compile_body),
    FanOut: lambda node, rt, path: compile_fan_out(node, rt, path, compile_body),
}


def compile_body(nodes: Iterable[Node], rt: Runtime, path: str) -> tuple[Step, ...]:
    """The closures of one body, in which what does not depend on each other may overlap.

    Args:
        nodes: of the body.
        rt: shared by all closures of the run, or by those of one thread.
        path: of the body, without indices.
    """
    body = tuple(nodes)
    return overlapped(body, rt, lambda some, fork: compile_each(some, fork, path))


def compile_each(nodes: Iterable[Node], rt: Runtime, path: str) -> tuple[Step, ...]:
    """One closure a block, and one for all stages between two blocks; see `compile_body`."""
    steps: list[Step] = []
    stages: list[StageNode] = []
    for node in nodes:
        if isinstance(node, StageNode):
            stages.append(node)
            continue
        if stages:
            steps.append(compile_stages(stages, rt, path))
            stages = []
        step = _COMPILERS[type(node)](node, rt, f"{path}/{node.name}")
        steps.append(step if rt.strand is None else followed(node, step, rt))
    if stages:
        steps.append(compile_stages(stages, rt, path))
    return tuple(steps)
