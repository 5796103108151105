"""A user's own DiGraph as a workflow: its edges are the order, and what is wrong is named."""

from __future__ import annotations

import inspect
from typing import Any

import networkx as nx
import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.engine import run
from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.graph import Retry, Stage, Workflow, find_problems, loop, stage, workflow

ORDER: list[str] = []


@stage(writes="a")
def one() -> int:
    ORDER.append("one")
    return 1


@stage(writes="b")
def two(a: int) -> int:
    ORDER.append("two")
    return a + 1


@stage
def note() -> None:
    ORDER.append("note")


class Three(Stage):
    by: int = 3

    def execute(self, ctx: Context) -> Context:
        ORDER.append("three")
        return ctx.put_state("c", ctx.state.b * self.by)


def graph() -> Any:
    g = nx.DiGraph(name="mine")
    # Added from the last to the first: the edges say the order.
    g.add_node("third", stage=Three(by=10))
    g.add_node("second", stage=two, retry=2)
    g.add_node("first", stage=one)
    g.add_node("apart", stage=note)
    g.add_edges_from([("first", "second"), ("second", "third"), ("third", "apart")])
    return g


def test_the_edges_are_the_order_and_it_runs() -> None:
    value = Workflow.from_networkx(graph())
    assert value.name == "mine"
    assert [node.name for node in value.body] == ["first", "second", "third", "apart"]
    assert value.body[1].retry == Retry(2)
    assert value.source.startswith(__file__)
    assert find_problems(value) == []
    ORDER.clear()
    assert run(value).context.state.c == 20
    assert ORDER == ["one", "two", "three", "note"]


def test_edges_without_a_key_are_kept() -> None:
    value = Workflow.from_networkx(graph())
    assert value.body[3].after == ("third",)
    again = value.graph
    assert {tuple(edge) for edge in graph().edges} <= set(again.edges)
    assert "after" in again.edges["third", "apart"]["why"]
    assert "after" in again.edges["first", "second"]["why"]
    assert Workflow.from_networkx(graph()) == value
    assert Workflow.from_json(value.to_json()) == value


def test_what_no_edge_orders_keeps_its_order() -> None:
    g = nx.DiGraph()
    for name in "cab":
        g.add_node(name, stage=note)
    g.add_node("d", stage=note)
    g.add_edge("d", "a")
    value = Workflow.from_networkx(g, name="named")
    assert value.name == "named"
    assert [node.name for node in value.body] == ["c", "b", "d", "a"]


def test_everything_wrong_is_told_at_once_by_node() -> None:
    g = graph()
    g.add_edge("third", "first")
    g.add_edge("first", "secnd")
    g.add_node("fn", stage=len)
    g.add_node("opt", stage=one, retrys=3, weight=1)
    g.add_node("bad", stage=one, retry=0)
    g.add_node("a b", stage=one)
    g.add_node("block", stage=loop("l", over=[1])[one])
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_networkx(g)
    said = {p.path: p for p in caught.value.problems}
    texts = "\n".join(map(str, caught.value.problems))
    circles = ["first -> second -> third -> first"]
    rotated = ["second -> third -> first -> second", "third -> first -> second -> third"]
    assert any(f"in a circle: {c}" in texts for c in circles + rotated), texts
    assert "the node has no stage" in said["mine/secnd"].message
    assert "'len' is not a stage" in texts or "is not a stage" in said["mine/fn"].message
    assert "unknown attribute 'retrys'" in texts
    assert "did you mean 'retry'" in texts
    assert "unknown attribute 'weight'" in texts
    assert "attempts must be an int of at least 1" in said["mine/bad"].message
    assert "must be called by letters" in said["mine/a b"].message
    assert "stage is a loop, not a stage" in said["mine/block"].message
    assert said["mine/secnd"].source == f"{__file__}:{line}"
    assert len(caught.value.problems) == 8


@pytest.mark.parametrize("other", [nx.Graph(), nx.MultiDiGraph(), None, {"a": 1}])
def test_only_a_digraph_is_taken(other: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a networkx\.DiGraph, got"):
        Workflow.from_networkx(other)


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(WorkflowError, match="the graph has no nodes"):
        Workflow.from_networkx(nx.DiGraph())


def test_two_nodes_of_one_name_are_refused() -> None:
    g = nx.DiGraph()
    g.add_node("1", stage=note)
    g.add_node(1, stage=note)
    with pytest.raises(WorkflowError, match="'1' and 1 have one name"):
        Workflow.from_networkx(g)


def codes(*items: Any) -> list[str]:
    return [problem.code for problem in find_problems(workflow("w")[items])]


def test_after_is_checked() -> None:
    first, last = note.with_(name="first"), note.with_(name="last", after="first")
    assert codes(first, last) == []
    assert codes(last, first) == ["after-later"]
    assert codes(first.with_(after=["last"]), last) == ["after-later", "cycle"]
    assert codes(first, last.with_(after=("frist", "last"))) == ["unknown-after", "cycle"]
    assert codes(first, last.with_(after=3)) == ["bad-option"]
    (problem,) = find_problems(workflow("w")[loop("l", over=[1])[first, last.with_(after="frist")]])
    assert problem.path == "w/l/last"
    assert problem.help == "did you mean 'first'?"
    messages = [p.message for p in find_problems(workflow("w")[first.with_(after="last"), last])]
    assert any("first -> last -> first" in m or "last -> first -> last" in m for m in messages)
