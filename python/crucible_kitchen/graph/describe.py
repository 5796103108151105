"""A workflow as plain data: for the command line, the report's drawing, and whoever draws next."""

from __future__ import annotations

from typing import Any

from .annotations import show
from .blocks import Block, Node
from .flow import carried, keys_read
from .keys import keys_written
from .loops import Loop
from .stage import StageNode
from .workflow import as_workflow


def describe(workflow: object) -> dict[str, Any]:
    """A workflow as nested dicts and lists of strings and numbers.

    Returns:
        ``kind, name, path, source, reads, writes, ports, children``; of a stage also ``doc`` and
        its options; of a block also what it asks for (``over``, ``while_``, ``predicate``,
        ``on``) and its options. Other bodies, such as ``otherwise`` and ``finally``, are children
        of that kind.
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
    asks = {option: str(value) for option, value in node.values}
    asked = [one for _, value in node.values for one in value.signature.injected if one.is_port]
    extra: dict[str, Any] = {**asks, **node.options}
    if isinstance(node, Loop):
        extra["carried"] = list(carried(node))
    return {
        **common,
        "reads": _unique(keys_read([node])),
        "writes": _unique(keys_written([node])),
        "ports": _unique(
            [
                *(one.role for one in asked),
                *(port for child in children for port in child["ports"]),
            ]
        ),
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
    if node.cache:
        options["cache"] = True
    if node.timeout is not None:
        options["timeout"] = node.timeout
    if node.after:
        options["after"] = list(node.after)
    if node.executor is not None:
        options["executor"] = node.executor
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
