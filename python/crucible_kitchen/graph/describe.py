"""A workflow as plain data: for the command line, the report's drawing, and whoever draws next."""

from __future__ import annotations

from typing import Any

from .annotations import show
from .blocks import Block, Loop, Node, as_workflow
from .flow import carried, keys_read, keys_written
from .stage import StageNode


def describe(workflow: object) -> dict[str, Any]:
    """A workflow as nested dicts and lists of strings and numbers.

    Returns:
        ``kind, name, path, source, reads, writes, ports, children``; of a stage also ``doc`` and
        its options; of a block also what it asks for (``over``, ``while_``, ``predicate``).
        Branches and clean-up are children of kind ``otherwise`` and ``finally``.
    """
    value = as_workflow(workflow)
    return _node(value, value.name)


def _node(node: Node, path: str) -> dict[str, Any]:
    common = {"kind": node.kind, "name": node.name, "path": path, "source": node.source}
    if isinstance(node, StageNode):
        return {**common, **_stage(node), "children": []}
    if not isinstance(node, Block):
        return {**common, "reads": [], "writes": [], "ports": [], "children": []}
    first, *others = node.regions
    children = [_node(child, f"{path}/{child.name}") for child in first[1]]
    children += [_region(label, body, f"{path}/{label}") for label, body in others]
    inside = [child for _, body in node.regions for child in body]
    asks = {option: str(value) for option, value in node.values}
    own_reads = [read.key for _, value in node.values for read in value.reads]
    extra: dict[str, Any] = dict(asks)
    if isinstance(node, Loop):
        extra["carried"] = list(carried(node))
        if node.max_iterations is not None:
            extra["max_iterations"] = node.max_iterations
    return {
        **common,
        "reads": _unique([*own_reads, *keys_read(inside)]),
        "writes": _unique(keys_written(inside)),
        "ports": _unique(port for child in children for port in child["ports"]),
        **extra,
        "children": children,
    }


def _region(label: str, body: tuple[Node, ...], path: str) -> dict[str, Any]:
    children = [_node(child, f"{path}/{child.name}") for child in body]
    return {
        "kind": label,
        "name": label,
        "path": path,
        "source": "",
        "reads": _unique(keys_read(body)),
        "writes": _unique(keys_written(body)),
        "ports": _unique(port for child in children for port in child["ports"]),
        "children": children,
    }


def _stage(node: StageNode) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if node.retry is not None:
        options["retry"] = node.retry.attempts
    if node.timeout is not None:
        options["timeout"] = node.timeout
    return {
        "reads": [read.key for read in node.reads],
        "optional": [read.key for read in node.reads if not read.required],
        "writes": [write.key for write in node.writes],
        "types": {write.key: show(write.type) for write in node.writes},
        "ports": list(node.ports),
        "doc": (getattr(node.call, "__doc__", None) or "").strip().split("\n")[0],
        **options,
    }


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(names))
