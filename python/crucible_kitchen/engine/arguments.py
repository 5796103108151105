"""What a function is handed: values under keys, and what the engine gives by annotation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from crucible_kitchen.graph.signature import MISSING, Injected, Read, Signature
from crucible_kitchen.graph.stage import Literal

from .runtime import Runtime


class Optional(NamedTuple):
    """A key that need not be there."""

    key: str
    default: Any


Get = str | Optional | Callable[[dict[str, Any]], Any]
"""What gives one argument: a key, or a function of what stands under the keys."""
Gather = Callable[[dict[str, Any]], tuple[Any, ...]]
"""Takes positional arguments from state and configuration; a `KeyError` where one lacks."""


def no_keywords() -> dict[str, Any]:
    return {}


def arguments(
    function: Callable[..., Any],
    signature: Signature,
    bound: Mapping[str, Any],
    rt: Runtime,
    path: str,
) -> tuple[Gather, Callable[[], dict[str, Any]], Callable[..., Any]]:
    """How to call a function: positional arguments, fresh keyword arguments, and what to call.

    Where nothing is injected they depend on the function and on `bound` alone.
    """
    reads = {read.param: read for read in signature.reads}
    constant: dict[str, Any] = {}
    fresh: dict[str, Callable[[], Any]] = {}
    for one in signature.injected:
        if one.role in ("rng", "context"):
            fresh[one.param] = _fresh(one, rt, path.rpartition("/")[2])
        else:
            constant[one.param] = _service(one, rt, path)

    def getter(name: str) -> Get:
        if name in fresh:
            return lambda values: fresh[name]()
        if name in constant:
            return _always(constant[name])
        return _read(reads[name], bound)

    gather = _gather([getter(name) for name in signature.order])
    keyword_constant = {k: v for k, v in constant.items() if k not in signature.order}
    keyword_fresh = {k: v for k, v in fresh.items() if k not in signature.order}
    called = partial(function, **keyword_constant) if keyword_constant else function
    if not keyword_fresh:
        return gather, no_keywords, called
    return gather, lambda: {k: make() for k, make in keyword_fresh.items()}, called


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


def _always(value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda values: value


def _read(read: Read, bound: Mapping[str, Any]) -> Get:
    key = bound.get(read.param, read.param)
    if isinstance(key, Literal):
        return _always(key.value)
    return str(key) if read.default is MISSING else Optional(str(key), read.default)


def _gather(getters: Sequence[Get]) -> Gather:
    if len(getters) > 1 and all(isinstance(one, str) for one in getters):
        return operator.itemgetter(*getters)
    if len(getters) == 1 and isinstance(getters[0], Optional):  # without a call for it alone
        key, default = getters[0]
        return lambda values: (values.get(key, default),)
    each = [_function(one) for one in getters]
    if len(each) == 1:
        (only,) = each
        return lambda values: (only(values),)
    return lambda values: tuple([get(values) for get in each])


def _function(get: Get) -> Callable[[dict[str, Any]], Any]:
    if isinstance(get, str):
        return operator.itemgetter(get)
    if isinstance(get, Optional):
        key, default = get
        return lambda values: values.get(key, default)
    return get


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
