"""Workflows as networkx graphs and as plain data."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import networkx as nx

from crucible_kitchen.context import Context
from crucible_kitchen.graph import Retry, Stage, describe, loop, stage, when, workflow
from crucible_kitchen.ports import MetricsStore, TrainingClient


@stage(writes="rows")
def load(name: str) -> list[int]:
    """Read the rows.

    And more.
    """
    return []


@stage(writes="loss")
async def train(row: int, loss: float = 0.0, *, training_client: TrainingClient) -> float:
    return 0.0


@stage(writes="other", retry=Retry(2))
def alone(*, training_client: TrainingClient) -> int:
    return 1


@stage
def store(*, metrics_store: MetricsStore) -> None: ...


class Opaque(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx


def good(loss: float) -> bool:
    return loss < 1


def build() -> Any:
    return workflow("w")[
        load,
        loop("steps", over="rows")[train.bind(row="steps.item")],
        when(good)[alone].otherwise[store],
    ].finally_[store]


def test_nested_graphs() -> None:
    graph = build().graph
    assert list(graph) == ["load", "steps", "good", "finally"]
    steps = graph.nodes["steps"]
    assert (steps["kind"], steps["carried"], steps["writes"]) == ("loop", ("loss",), ("loss",))
    assert set(steps["reads"]) == {"rows", "steps.item", "loss"}
    assert list(steps["graph"]) == ["train"]
    assert steps["source"].startswith(__file__)
    assert steps["spec"] == build().body[1]
    assert list(graph.nodes["good"]["graph"].nodes["otherwise"]["graph"]) == ["store"]
    assert graph.edges["load", "steps"]["keys"] == ("rows",)
    assert "read-after-write" in graph.edges["steps", "good"]["why"]
    assert graph.has_edge("good", "finally")


def test_every_level_is_acyclic_and_flat_has_every_node() -> None:
    flat = build().flat()
    assert nx.is_directed_acyclic_graph(flat)
    assert flat.nodes["w/steps/train"]["parent"] == "w/steps"
    assert flat.nodes["w/good/otherwise/store"]["parent"] == "w/good/otherwise"
    assert flat.nodes["w"]["parent"] is None
    assert len(flat) == 10


def test_edges_have_reasons() -> None:
    rename = alone.with_(name="again").bind(writes="more")
    graph = workflow("w")[load, alone, rename, Opaque, store].graph
    assert not graph.has_edge("load", "alone")
    assert graph.edges["alone", "again"]["why"] == ("same-port",)
    assert graph.edges["alone", "opaque"]["why"] == ("barrier",)
    assert graph.edges["opaque", "store"]["why"] == ("barrier",)


def test_description_is_plain_data() -> None:
    described = describe(build())
    assert json.loads(json.dumps(described)) == described
    assert (described["kind"], described["name"], described["path"]) == ("workflow", "w", "w")
    load_, steps, branch, final = described["children"]
    assert load_["doc"] == "Read the rows."
    assert load_["types"] == {"rows": "list[int]"}
    assert (steps["over"], steps["carried"]) == ("rows", ["loss"])
    assert steps["children"][0]["optional"] == ["loss"]
    assert steps["ports"] == ["training_client"]
    assert branch["predicate"] == "good"
    assert branch["children"][0]["retry"] == 2
    assert [child["kind"] for child in branch["children"]] == ["stage", "otherwise"]
    assert (final["kind"], final["path"]) == ("finally", "w/finally")
    assert final["children"][0]["path"] == "w/finally/store"


def test_networkx_is_loaded_only_when_a_graph_is_asked_for() -> None:
    probe = (
        "import sys, crucible_kitchen.graph as g, crucible_kitchen.engine as e\n"
        "w = g.workflow('w')[g.stage(lambda: None).with_(name='a')]\n"
        "g.find_problems(w); g.describe(w); e.run(w)\n"
        "assert not {'networkx', 'rich', 'torch', 'asyncio'} & set(sys.modules)\n"
        "w.graph; assert 'networkx' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_mermaid() -> None:
    assert (
        build().mermaid()
        == """\
flowchart TD
  subgraph n0["w"]
    n1["load"]
    subgraph n2["steps: each of rows"]
      n3["train"]
    end
    subgraph n4["when good"]
      n5["alone"]
      subgraph n6["otherwise"]
        n7["store"]
      end
    end
    subgraph n8["finally"]
      n9["store"]
    end
    n1 --> n2
    n2 --> n4
    n4 --> n8
  end
"""
    )


def test_dot() -> None:
    text = build().dot()
    assert text.count("{") == text.count("}")
    assert "n1 -> n3 [lhead=cluster_n2];" in text
    assert "n3 -> n5 [ltail=cluster_n2, lhead=cluster_n4];" in text
    assert 'label="steps: each of rows";' in text


def test_labels_are_escaped() -> None:
    value = workflow("w")[loop("l", over=['a"b'])[store]]
    assert "each of ['a#quot;b']" in value.mermaid()
    assert "each of ['a\\\"b']" in value.dot()
