"""What running a stage takes: its arguments, what is called with them, and what it may give."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import sleep
from typing import Any, NamedTuple

from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.annotations import show
from crucible_kitchen.graph.executors import is_async
from crucible_kitchen.graph.signature import Write

from .arguments import Gather, arguments, gathered, no_keywords
from .checked import watched
from .class_stage import executed
from .executors import executor
from .runtime import BorderError, Runtime

Keep = Callable[[dict[str, Any], dict[str, Any], Any], None]
"""Checks what a function has given, and writes it into the state and into `Runtime.values`."""


class Call(NamedTuple):
    """What running a stage takes.

    Args:
        node: the stage.
        gather: gives the arguments.
        function: what is called with them.
        key: the one key that it writes; None where `keep` takes what the function gives.
        classes: what is written under `key` is of this class, or of one of these.
        keep: see `key`.
    """

    node: StageNode
    gather: Gather
    function: Callable[..., Any]
    key: str | None
    classes: type | tuple[type, ...]
    keep: Keep


def call_of(node: StageNode, rt: Runtime, path: str) -> Call:
    """What running a stage takes in a run; found out once where it is the same in all of them.

    Args:
        node: the stage.
        rt: of the thread it runs in.
        path: of the stage, without indices.
    """
    known: Call | None = None if rt.checked else rt.facts.calls.get(id(node))
    if known is not None and known.node is node:
        return known
    call = _found(node, rt, path)
    if not rt.checked and _same_in_every_run(node):
        rt.facts.calls[id(node)] = call
    return call


def _same_in_every_run(node: StageNode) -> bool:
    return not (
        node.of_class
        or node.signature.injected
        or node.signature.is_async
        or node.retry
        or node.cache
        or node.executor not in (None, "inline")
    )


def _found(node: StageNode, rt: Runtime, path: str) -> Call:
    if node.of_class:
        return Call(node, _nothing, executed(node, rt), None, (), _kept)
    gather, keywords, function = arguments(node.call, node.signature, node.bindings, rt, path)
    function = executor(node, function, rt)
    if rt.checked and node.executor != "process":  # another process has copies
        function = watched(function, node)
    if node.cache:
        from .cache import Cached  # here and not above: few workflows cache anything

        cached = Cached(node, function, rt)
        function = cached.awaited if is_async(node) else cached
    if is_async(node):
        function = _waited_for(function, node.timeout, rt)
    if keywords is not no_keywords:
        function = _with(keywords, function)
    if node.retry is not None:
        gather, function = _nothing, _retrying(gather, function, node, rt)
    if len(node.writes) == 1 and node.signature.record is None:
        (classes,) = node.written_classes
        one = classes[0] if len(classes) == 1 else classes  # which takes half the time to ask
        return Call(node, gather, function, node.writes[0].key, one, _kept)
    return Call(node, gather, function, None, (), _keep(node))


def _nothing(values: dict[str, Any]) -> tuple[Any, ...]:
    return ()


def _kept(state: dict[str, Any], values: dict[str, Any], result: Any) -> None:
    """What it gives has been taken already."""


def _waited_for(
    function: Callable[..., Any], timeout: float | None, rt: Runtime
) -> Callable[..., Any]:
    return lambda *args, **kwargs: rt.wait(function(*args, **kwargs), timeout)


def _with(
    keywords: Callable[[], dict[str, Any]], function: Callable[..., Any]
) -> Callable[..., Any]:
    return lambda *args: function(*args, **keywords())


def _retrying(
    gather: Gather, function: Callable[..., Any], node: StageNode, rt: Runtime
) -> Callable[[], Any]:
    """A function that tries another one; each attempt is given its arguments anew."""
    retry, take = node.retry, gathered(gather, rt)
    assert retry is not None

    def attempts() -> Any:
        for number in range(1, retry.attempts + 1):
            try:
                result = function(*take())
                rt.attempts = 1
                return result
            except retry.on as error:
                rt.attempts = number
                if number == retry.attempts or isinstance(error, BorderError):
                    raise
                rt.tell(
                    "stage.retry",
                    rt.prefix + node.name,
                    attempt=number,
                    error=rt.redact(f"{type(error).__name__}: {error}"),
                )
                wait = retry.wait(number, random.random())
            sleep(wait)
            rt.check_cancelled()
        raise AssertionError("the last attempt returns or raises")

    return attempts


def _keep(node: StageNode) -> Keep:
    """What takes the result of a function that declares no key, or several."""
    writes = node.writes
    if not writes:
        return _keep_nothing
    record = node.signature.record
    expected: Any = record or (tuple, list)
    said = show(record) if record else f"a tuple of {len(writes)}"
    pairs = tuple(zip(writes, node.written_classes, strict=True))

    def keep(state: dict[str, Any], values: dict[str, Any], result: Any) -> None:
        if not isinstance(result, expected) or len(result) != len(pairs):
            raise BorderError(f"must return {said}, got {_shown(result)}")
        for (write, classes), value in zip(pairs, result, strict=True):
            if not isinstance(value, classes):
                raise wrong_type(write, value)
        for write, value in zip(writes, result, strict=True):
            state[write.key] = values[write.key] = value

    return keep


def _keep_nothing(state: dict[str, Any], values: dict[str, Any], result: Any) -> None:
    if result is not None:
        raise BorderError(f"declares no key to write, but returned {type(result).__name__}")


def _shown(result: object) -> str:
    size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
    return f"{type(result).__name__}{size}"


def wrong_type(write: Write, got: object) -> BorderError:
    """The error for a value that is no instance of what was declared."""
    return BorderError(f"must write {write.key!r} as {show(write.type)}, got {type(got).__name__}")
