"""The class form: a `Workflow` subclass whose methods are its predicates and iterables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .blocks import Loop, Node, When, Workflow, as_nodes
from .stage import snake_case
from .values import Value, as_value


def value_of(cls: type[Workflow]) -> Workflow:
    """The value that a `Workflow` subclass describes."""
    own = {key: value for kind in reversed(cls.__mro__[:-3]) for key, value in vars(kind).items()}
    if "_owner" not in vars(cls):
        cls._owner = object.__new__(cls)  # one a class, so that equal classes give equal values
    owner, source = cls._owner, cls._source
    final, failed = own.get("finally_"), own.get("on_error")
    return Workflow(
        own["name"] if isinstance(own.get("name"), str) else snake_case(cls.__name__),
        _with_methods(as_nodes(own.get("body", ()), source), owner, own),
        source,
        (),
        None if final is None else _with_methods(as_nodes(final, source), owner, own),
        None if failed is None else _with_methods(as_nodes(failed, source), owner, own),
    )


def _with_methods(
    nodes: tuple[Node, ...], owner: Workflow, own: Mapping[str, Any]
) -> tuple[Node, ...]:
    """The nodes with names of `owner`'s methods replaced by the methods."""

    def resolve(value: Value | None) -> Value | None:
        if value is None or value.kind != "key":
            return value
        return as_value(getattr(owner, value.of), 1) if callable(own.get(value.of)) else value

    done: list[Node] = []
    for node in nodes:
        if isinstance(node, Loop):
            body = _with_methods(node.body, owner, own)
            node = replace(node, body=body, over=resolve(node.over), while_=resolve(node.while_))
        elif isinstance(node, When):
            other = node.otherwise_body
            node = replace(
                node,
                body=_with_methods(node.body, owner, own),
                predicate=resolve(node.predicate) or node.predicate,
                otherwise_body=None if other is None else _with_methods(other, owner, own),
            )
        done.append(node)
    return tuple(done)
