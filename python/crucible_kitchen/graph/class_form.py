"""The class form: a `Workflow` subclass whose methods are its predicates and iterables."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from .blocks import Block, Node, as_nodes
from .stage import snake_case
from .values import Value, as_value
from .workflow import Workflow


def value_of(cls: type[Workflow]) -> Workflow:
    """The value that a `Workflow` subclass describes; one and the same until the class changes."""
    classes = reversed(cls.__mro__[:-3])
    own = {
        key: value
        for kind in classes
        for key, value in vars(kind).items()
        if key not in ("_owner", "_described")
    }
    parts = [part for pair in own.items() for part in _parts(pair)]
    if "_described" in vars(cls):
        before, value = cls._described
        if len(before) == len(parts) and all(map(operator.is_, before, parts)):
            return value
    value = _described(cls, own)
    cls._described = parts, value
    return value


def _parts(value: object) -> Iterator[object]:
    """A value, or what is in a list or tuple, which may hold others."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _parts(one)
    else:
        yield value


def _described(cls: type[Workflow], own: Mapping[str, Any]) -> Workflow:
    owner, source = owner_of(cls), cls._source
    final, failed = own.get("finally_"), own.get("on_error")
    return Workflow(
        own["name"] if isinstance(own.get("name"), str) else snake_case(cls.__name__),
        _with_methods(as_nodes(own.get("body", ()), source), owner, own),
        source,
        (),
        None if final is None else _with_methods(as_nodes(final, source), owner, own),
        None if failed is None else _with_methods(as_nodes(failed, source), owner, own),
    )


def owner_of(cls: type[Workflow]) -> Workflow:
    """The object that a class's methods are bound to: one a class, so that values are equal."""
    if "_owner" not in vars(cls):
        cls._owner = object.__new__(cls)
    return cls._owner


def _with_methods(
    nodes: tuple[Node, ...], owner: Workflow, own: Mapping[str, Any]
) -> tuple[Node, ...]:
    """The nodes with names of `owner`'s methods replaced by the methods."""

    def resolve(value: Value) -> Value:
        if value.kind != "key":
            return value
        return as_value(getattr(owner, value.of), 1) if callable(own.get(value.of)) else value

    def changed(block: Block) -> Block:
        changes: dict[str, Any] = {}
        for one in fields(block):
            value = getattr(block, one.name)
            if isinstance(value, Value):
                changes[one.name] = resolve(value)
        for label, body in block.regions:
            field = f"{label}_body" if label else "body"
            changes[field] = _with_methods(body, owner, own)
        return replace(block, **changes)

    return tuple(changed(node) if isinstance(node, Block) else node for node in nodes)
