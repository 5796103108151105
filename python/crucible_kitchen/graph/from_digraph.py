"""A user's own `networkx.DiGraph` as a workflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from crucible_kitchen.errors import Problem, WorkflowError, did_you_mean

from .blocks import as_nodes, caller
from .stage import StageNode
from .stage_options import NAME_RULE, OPTIONS, is_name
from .workflow import Workflow, workflow

ATTRIBUTES = ("stage", *(option for option in OPTIONS if option not in ("name", "after")))


def from_digraph(graph: Any, name: str | None, depth: int) -> Workflow:
    """The workflow of a graph; see `Workflow.from_networkx`.

    Args:
        graph: to read.
        name: of the workflow; None for the graph's own.
        depth: frames between this call and the user's.
    """
    _check_kind(graph)
    called = name or str(graph.name or "") or "graph"
    source = caller(depth)
    problems = [*_names(graph, called, source)]
    stages: dict[Any, StageNode] = {}
    for node, attributes in graph.nodes(data=True):
        path = f"{called}/{node}"
        wrong = [*_attributes(attributes, path, source)]
        named = is_name(str(node))
        made = _stage(str(node), attributes, path, source, wrong) if named and not wrong else None
        problems += wrong
        if made is not None:
            earlier = tuple(str(one) for one in graph.predecessors(node))
            stages[node] = replace(made, after=earlier)
    problems += _cycle(graph, called, source)
    if problems:
        raise WorkflowError(problems)
    ordered = _in_order(graph)
    return replace(workflow(called), source=source, body=tuple(stages[node] for node in ordered))


def _check_kind(graph: Any) -> None:
    # Whoever has a graph has imported networkx.
    nx = sys.modules.get("networkx")
    if nx is None or not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"from_networkx: graph must be a networkx.DiGraph, got {type(graph).__name__}"
        )


def _names(graph: Any, path: str, source: str) -> Iterator[Problem]:
    seen: dict[str, Any] = {}
    if not len(graph):
        advice = "add nodes: g.add_node('load', stage=load)"
        yield Problem("empty-block", path, "the graph has no nodes", source, advice)
    if not is_name(path):
        yield Problem("bad-option", path, f"name must be {NAME_RULE}, got {path!r}", source)
    for node in graph:
        if not is_name(str(node)):
            message = f"the node {node!r} must be called by {NAME_RULE}"
            yield Problem("bad-option", f"{path}/{node}", message, source)
        elif str(node) in seen:
            message = f"the nodes {seen[str(node)]!r} and {node!r} have one name"
            yield Problem("duplicate-name", f"{path}/{node}", message, source)
        seen[str(node)] = node


def _attributes(attributes: Mapping[str, Any], path: str, source: str) -> Iterator[Problem]:
    if "stage" not in attributes:
        # A node that is only named in an edge comes into being without a word.
        message = "the node has no stage"
        advice = "add_node(name, stage=...); an edge to a misspelt name makes a node too"
        yield Problem("not-a-stage", path, message, source, advice)
    for key in attributes:
        if key not in ATTRIBUTES:
            advice = did_you_mean(str(key), ATTRIBUTES)
            yield Problem("unknown-option", path, f"unknown attribute {key!r}", source, advice)


def _stage(
    name: str, attributes: Mapping[str, Any], path: str, source: str, wrong: list[Problem]
) -> StageNode | None:
    """The stage of a node, under the node's name; None, and problems, where there is none."""
    (made,) = as_nodes([attributes["stage"]], source)
    if isinstance(made, StageNode):
        options = {key: value for key, value in attributes.items() if key != "stage"}
        made = made.with_(name=name, **options)
    elif not made.defects:
        message = f"stage is a {made.kind}, not a stage"
        wrong.append(Problem("not-a-stage", path, message, source, "put the graph into the block"))
    for code, message, advice, place in made.defects:
        wrong.append(Problem(code, path, message, place or made.source or source, advice))
    return made if isinstance(made, StageNode) and not wrong else None


def _cycle(graph: Any, path: str, source: str) -> Iterator[Problem]:
    try:
        TopologicalSorter({node: graph.pred[node] for node in graph}).prepare()
    except CycleError as error:
        # Each comes after the one before it; the first is also the last.
        shown = " -> ".join(str(node) for node in error.args[1])
        yield Problem("cycle", path, f"the edges go in a circle: {shown}", source)


def _in_order(graph: Any) -> list[Any]:
    """The nodes with every edge forward, otherwise in the order in which they were added."""
    waiting = {node: len(graph.pred[node]) for node in graph}
    order: list[Any] = []
    while waiting:
        node = next(node for node, count in waiting.items() if not count)
        del waiting[node]
        order.append(node)
        for later in graph.succ[node]:
            waiting[later] -= 1
    return order
