"""How a function is called: what it is given, and where what it returns goes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.annotations import runtime_classes, show
from crucible_kitchen.graph.signature import MISSING, Injected, Read, Signature
from crucible_kitchen.graph.stage import Literal

from .runtime import BorderError, Runtime

Gather = Callable[[dict[Any, Any]], tuple[Any, ...]]
"""Takes positional arguments from what closures look keys up in; a `KeyError` where one lacks."""


def no_keywords() -> dict[str, Any]:
    return {}


def arguments(
    function: Callable[..., Any],
    signature: Signature,
    bound: dict[str, Any],
    rt: Runtime,
    path: str,
) -> tuple[Gather, Callable[[], dict[str, Any]], Callable[..., Any]]:
    """How to call a function: positional arguments, fresh keyword arguments, and what to call."""
    reads = {read.param: read for read in signature.reads}
    injected = {injected.param: injected for injected in signature.injected}
    constant: dict[str, Any] = {}
    fresh: dict[str, Callable[[], Any]] = {}
    for name, one in injected.items():
        if one.role in ("rng", "context"):
            fresh[name] = _fresh(one, rt, path.rpartition("/")[2])
        else:
            constant[name] = _service(one, rt, path)
    getters = [_getter(name, reads, bound, constant, fresh, rt, path) for name in signature.order]
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


def _getter(
    name: str,
    reads: dict[str, Read],
    bound: dict[str, Any],
    constant: dict[str, Any],
    fresh: dict[str, Callable[[], Any]],
    rt: Runtime,
    path: str,
) -> Any:
    """A key of `rt.values`, or a function of them."""
    if name in fresh:
        make = fresh[name]
        return lambda values: make()
    to = bound.get(name, name)
    if name in constant or isinstance(to, Literal):
        key = (path, name)  # no key of a user is a tuple
        value = to.value if isinstance(to, Literal) else constant[name]
        rt.values[key] = rt.constants[key] = value
        return key
    default = reads[name].default
    if default is MISSING or to in rt.config:
        return to
    return lambda values: values.get(to, default)


def _gather(getters: list[Any]) -> Gather:
    if not getters:
        return lambda values: ()
    if any(callable(getter) for getter in getters):
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
    writes = node.writes
    kinds = tuple(runtime_classes(write.type) or (object,) for write in writes)

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
                raise _wrong_type(key, write.type, result)
            state[key] = values[key] = result

        return one
    record = node.signature.record
    expected: Any = record or (tuple, list)
    said = show(record) if record else f"a tuple of {len(writes)}"
    triples = tuple(
        (write.key, classes, write.type) for write, classes in zip(writes, kinds, strict=True)
    )

    def several(result: Any) -> None:
        if not isinstance(result, expected) or len(result) != len(triples):
            raise BorderError(f"must return {said}, got {_shown(result)}")
        for (key, classes, kind), value in zip(triples, result, strict=True):
            if not isinstance(value, classes):
                raise _wrong_type(key, kind, value)
        for (key, _, _), value in zip(triples, result, strict=True):
            state[key] = values[key] = value

    return several


def _shown(result: object) -> str:
    size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
    return f"{type(result).__name__}{size}"


def _wrong_type(key: str, wanted: Any, got: object) -> BorderError:
    return BorderError(f"must write {key!r} as {show(wanted)}, got {type(got).__name__}")
