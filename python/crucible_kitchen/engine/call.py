"""How a function is called: what it is given, and where what it returns goes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.annotations import show
from crucible_kitchen.graph.signature import MISSING, Injected, Read, Signature, Write
from crucible_kitchen.graph.stage import Literal

from .runtime import BorderError, Runtime

Gather = Callable[[dict[Any, Any]], tuple[Any, ...]]
"""Takes positional arguments from what closures look keys up in; a `KeyError` where one lacks."""


def no_keywords() -> dict[str, Any]:
    return {}


def arguments(
    function: Callable[..., Any],
    signature: Signature,
    bound: Mapping[str, Any],
    rt: Runtime,
    path: str,
) -> tuple[Gather, Callable[[], dict[str, Any]], Callable[..., Any]]:
    """How to call a function: positional arguments, fresh keyword arguments, and what to call."""
    if not signature.injected:  # most stages: each is compiled in every run
        return (
            _gather([_read(one, bound, rt, path) for one in signature.reads]),
            no_keywords,
            function,
        )
    reads = {read.param: read for read in signature.reads}
    injected = {injected.param: injected for injected in signature.injected}
    constant: dict[str, Any] = {}
    fresh: dict[str, Callable[[], Any]] = {}
    for name, one in injected.items():
        if one.role in ("rng", "context"):
            fresh[name] = _fresh(one, rt, path.rpartition("/")[2])
        else:
            constant[name] = _service(one, rt, path)

    def getter(name: str) -> Any:
        if name in fresh:
            return lambda values: fresh[name]()
        if name in constant:
            return _constant(name, constant[name], rt, path)
        return _read(reads[name], bound, rt, path)

    getters = [getter(name) for name in signature.order]
    keyword_constant = {k: v for k, v in constant.items() if k not in signature.order}
    keyword_fresh = {k: v for k, v in fresh.items() if k not in signature.order}
    called = partial(function, **keyword_constant) if keyword_constant else function
    if not keyword_fresh:
        return _gather(getters), no_keywords, called
    return _gather(getters), lambda: {k: make() for k, make in keyword_fresh.items()}, called


def _service(injected: Injected, rt: Runtime, path: str) -> Any:
    if injected.role == "metrics":
        return rt.metrics
    if injected.role == "logger":
        return rt.logger(path)
    return rt.ports[injected.role] if injected.required else rt.ports.get(injected.role)


def _fresh(injected: Injected, rt: Runtime, name: str) -> Callable[[], Any]:
    if injected.role == "rng":
        from .rng import Rng  # here and not above: it loads numpy

        return lambda: Rng(rt.seed, rt.prefix + name)
    return lambda: rt.context(rt.prefix + name)


def _constant(name: str, value: Any, rt: Runtime, path: str) -> tuple[str, str]:
    """The key under which `rt.values` has a value that stays the same."""
    key = (path, name)  # no key of a user is a tuple
    rt.values[key] = rt.constants[key] = value
    return key


def _read(read: Read, bound: Mapping[str, Any], rt: Runtime, path: str) -> Any:
    """A key of `rt.values`, or a function of them."""
    key = bound.get(read.param, read.param)
    if isinstance(key, Literal):
        return _constant(read.param, key.value, rt, path)
    default = read.default
    if default is MISSING or key in rt.config:
        return key
    return lambda values: values.get(key, default)


def _gather(getters: list[Any]) -> Gather:
    if not getters:
        return lambda values: ()
    if any(map(callable, getters)):
        each = [g if callable(g) else operator.itemgetter(g) for g in getters]
        return lambda values: tuple([get(values) for get in each])
    if len(getters) == 1:
        (only,) = getters
        return lambda values: (values[only],)
    return operator.itemgetter(*getters)


def gathered(gather: Gather, rt: Runtime) -> Callable[[], tuple[Any, ...]]:
    """A closure that takes the arguments of this moment.

    Its error for a key that is not there is a `BorderError`.
    """
    values = rt.values

    def take() -> tuple[Any, ...]:
        try:
            return gather(values)
        except KeyError as error:
            raise rt.missing(error.args[0]) from None

    return take


def store(node: StageNode, rt: Runtime) -> Callable[[Any], None]:
    """Check what a function gives against its declaration and write it to the state."""
    state, values = rt.state, rt.values
    writes, kinds = node.writes, node.written_classes

    def nothing(result: Any) -> None:
        if result is not None:
            raise BorderError(f"declares no key to write, but returned {type(result).__name__}")

    if not writes:
        return nothing
    if len(writes) == 1 and node.signature.record is None:
        (write,), (classes,) = writes, kinds
        key = write.key

        def one(result: Any) -> None:
            if not isinstance(result, classes):
                raise wrong_type(write, result)
            state[key] = values[key] = result

        return one
    record = node.signature.record
    expected: Any = record or (tuple, list)
    said = show(record) if record else f"a tuple of {len(writes)}"
    pairs = tuple(zip(writes, kinds, strict=True))

    def several(result: Any) -> None:
        if not isinstance(result, expected) or len(result) != len(pairs):
            raise BorderError(f"must return {said}, got {_shown(result)}")
        for (write, classes), value in zip(pairs, result, strict=True):
            if not isinstance(value, classes):
                raise wrong_type(write, value)
        for write, value in zip(writes, result, strict=True):
            state[write.key] = values[write.key] = value

    return several


def _shown(result: object) -> str:
    size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
    return f"{type(result).__name__}{size}"


def wrong_type(write: Write, got: object) -> BorderError:
    """The error for a value that is no instance of what was declared."""
    return BorderError(f"must write {write.key!r} as {show(write.type)}, got {type(got).__name__}")
