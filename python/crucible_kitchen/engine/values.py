"""One closure for what a block asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crucible_kitchen.graph.values import Value

from .arguments import arguments, gathered
from .runtime import Runtime


def compile_value(value: Value, rt: Runtime, path: str) -> Callable[[], Any]:
    """A closure that gives what a block asks for."""
    if value.kind == "literal":
        return lambda: value.of
    values = rt.values
    if value.kind == "key":

        def look_up() -> Any:
            try:
                return values[value.of]
            except KeyError:
                raise rt.missing(value.of) from None

        return look_up
    gather, keywords, function = arguments(value.of, value.signature, {}, rt, path)
    take = gathered(gather, rt)
    if value.signature.is_async:
        return lambda: rt.wait(function(*take(), **keywords()))
    return lambda: function(*take(), **keywords())
