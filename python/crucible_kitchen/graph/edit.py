"""Edits of a workflow, each giving a new one: insert, replace, leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from crucible_kitchen.errors import did_you_mean

from .blocks import Block, Node, walk

B = TypeVar("B", bound=Block)
Change = Callable[[Node], tuple[Node, ...]]


def change(workflow: B, name: str, put: Change) -> B:
    """The workflow with one node changed into others.

    Args:
        workflow: to start from.
        name: of the node, or as much of the end of its path as tells it from others.
        put: gives what stands in the node's place.
    Raises:
        ValueError: no node, or more than one, is called so.
    """
    paths = list(_paths_that_end_in(workflow, name))
    if not paths:
        known = {node.name for _, node in walk(workflow)} - {workflow.name}
        raise ValueError(f"{workflow.name}: no node {name!r}; {did_you_mean(name, known)}")
    if len(paths) > 1:
        raise ValueError(f"{workflow.name}: {name!r} could be {' or '.join(paths)}; say which")
    return _inside(workflow, workflow.name, paths[0], put)


def _paths_that_end_in(workflow: Block, name: str) -> Iterator[str]:
    for path, node in walk(workflow):
        if node is not workflow and f"/{path}".endswith(f"/{name}"):
            yield path


def _inside(block: B, path: str, target: str, put: Change) -> B:
    changes: dict[str, Any] = {}
    for label, body in block.regions:
        below = f"{path}/{label}" if label else path
        if target.startswith(f"{below}/"):
            changes[f"{label}_body" if label else "body"] = _body(body, below, target, put)
    return replace(block, **changes)


def _body(body: tuple[Node, ...], path: str, target: str, put: Change) -> tuple[Node, ...]:
    new: list[Node] = []
    for node in body:
        here = f"{path}/{node.name}"
        if here == target:
            new.extend(put(node))
        elif isinstance(node, Block) and target.startswith(f"{here}/"):
            new.append(_inside(node, here, target, put))
        else:
            new.append(node)
    return tuple(new)
