"""Workflows as text that other programs draw: Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .blocks import Block
from .describe import describe

Described = dict[str, Any]


def mermaid(workflow: Block) -> str:
    """A Mermaid flow chart: blocks are boxes, arrows are the order of the text."""
    ids = _ids(describe(workflow))
    lines = ["flowchart TD"]

    def add(node: Described, indent: str) -> None:
        own = ids[node["path"]]
        if not node["children"]:
            lines.append(f'{indent}{own}["{_quoted(_label(node))}"]')
            return
        lines.append(f'{indent}subgraph {own}["{_quoted(_label(node))}"]')
        for child in node["children"]:
            add(child, indent + "  ")
        for head, tail in _arrows(node):
            lines.append(f"{indent}  {ids[head]} --> {ids[tail]}")
        lines.append(f"{indent}end")

    add(describe(workflow), "  ")
    return "\n".join(lines) + "\n"


def dot(workflow: Block) -> str:
    """A Graphviz digraph: blocks are clusters, arrows are the order of the text."""
    ids = _ids(describe(workflow))
    lines = ["digraph {", "  compound=true;", "  node [shape=box];"]

    def add(node: Described, indent: str) -> None:
        own = ids[node["path"]]
        if not node["children"]:
            lines.append(f'{indent}{own} [label="{_escaped(_label(node))}"];')
            return
        lines.append(f"{indent}subgraph cluster_{own} {{")
        lines.append(f'{indent}  label="{_escaped(_label(node))}";')
        for child in node["children"]:
            add(child, indent + "  ")
        lines.append(f"{indent}}}")
        for head, tail in _arrows(node):
            lines.append(f"{indent}{_dot_arrow(node, head, tail, ids)}")

    add(describe(workflow), "  ")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_arrow(parent: Described, head: str, tail: str, ids: dict[str, str]) -> str:
    """An arrow between two children; Graphviz wants leaves, and is told where to clip."""
    children = {child["path"]: child for child in parent["children"]}
    clips = []
    if children[head]["children"]:
        clips.append(f"ltail=cluster_{ids[head]}")
    if children[tail]["children"]:
        clips.append(f"lhead=cluster_{ids[tail]}")
    first, last = _leaf(children[tail], 0), _leaf(children[head], -1)
    return f"{ids[last]} -> {ids[first]}" + (f" [{', '.join(clips)}]" if clips else "") + ";"


def _leaf(node: Described, which: int) -> str:
    while node["children"]:
        node = node["children"][which]
    return str(node["path"])


def _ids(root: Described) -> dict[str, str]:
    def paths(node: Described) -> Iterator[str]:
        yield node["path"]
        for child in node["children"]:
            yield from paths(child)

    return {path: f"n{number}" for number, path in enumerate(paths(root))}


def _arrows(node: Described) -> Iterator[tuple[str, str]]:
    """Pairs of children that follow each other; branches and clean-up follow nothing."""
    if node["kind"] == "parallel":
        return
    apart = ("otherwise", "on_error", "case")
    paths = [c["path"] for c in node["children"] if c["kind"] not in apart]
    yield from pairwise(paths)


def _label(node: Described) -> str:
    name, kind = node["name"], node["kind"]
    asks = node.get("over") or node.get("while_") or node.get("predicate")
    if kind == "loop":
        words = {"over": "each of", "while_": "while"}
        return f"{name}: {' '.join(f'{words[key]} {node[key]}' for key in words if key in node)}"
    if kind == "stream_loop":
        return f"{name}: each of {asks}, read ahead"
    if kind == "async_loop":
        return f"{name}: each that {node['producer']} makes, at the same time"
    if kind == "fan_out":
        return f"{name}: a copy for each of {asks}"
    if kind == "parallel":
        return f"{name}: at once"
    if kind == "switch":
        return f"switch {node['on']}"
    if kind == "case":
        return f"case {', '.join(node['matches'])}"
    if kind == "when":
        return f"when {asks}"
    return str(name)


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;").replace("\n", " ")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
