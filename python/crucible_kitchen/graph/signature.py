"""A function's signature, read as the declaration of a stage: keys read, ports used, keys written.

Wrong declarations are collected as defects instead of raised, so that validation can report all
of them together.
"""

from __future__ import annotations

import builtins
import inspect
import logging
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from .annotations import is_class

UNKNOWN = Any
MISSING: Any = inspect.Parameter.empty


class Defect(NamedTuple):
    """Something wrong with a declaration.

    Args:
        code, message, help: as of a `Problem`.
        source: ``file:line``, where it is not that of the node.
    """

    code: str
    message: str
    help: str = ""
    source: str = ""


@dataclass(frozen=True)
class Read:
    """A positional parameter: a key read from the state, then from the configuration."""

    param: str
    key: str
    type: Any = field(default=UNKNOWN, compare=False)
    default: Any = field(default=MISSING, compare=False)

    @property
    def required(self) -> bool:
        return self.default is MISSING


@dataclass(frozen=True)
class Injected:
    """A parameter that the engine fills: a port (`role` is its name), or one of our own types.

    Args:
        param: name of the parameter.
        role: ``metrics``, ``rng``, ``logger``, ``context`` or the name of a port.
        is_port: whether the role is the name of a port.
        required: False where None is acceptable.
    """

    param: str
    role: str
    is_port: bool
    required: bool


@dataclass(frozen=True)
class Write:
    """A key written, with the type of its value."""

    key: str
    type: Any = field(default=UNKNOWN, compare=False)


@dataclass(frozen=True)
class Signature:
    """What a function reads, is given, and writes.

    Args:
        order: names of the positional parameters, in the order of the call.
        record: the NamedTuple class returned, when that is how several keys are written.
        returns: type of what a predicate, an iterable or a producer gives.
    """

    reads: tuple[Read, ...] = ()
    injected: tuple[Injected, ...] = ()
    writes: tuple[Write, ...] = ()
    order: tuple[str, ...] = ()
    record: type | None = None
    is_async: bool = False
    defects: tuple[Defect, ...] = field(default=(), compare=False)
    returns: Any = field(default=UNKNOWN, compare=False)

    @property
    def sees_context(self) -> bool:
        """Whether it can read anything at all."""
        return any(injected.role == "context" for injected in self.injected)


def is_named_tuple(kind: object) -> bool:
    return is_class(kind) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _resolve(annotation: object, names: ChainMap[str, Any]) -> Any:
    """The annotation as an object; `UNKNOWN` where a name in it cannot be found."""
    if not isinstance(annotation, str):
        return UNKNOWN if annotation is MISSING else annotation
    try:
        return eval(annotation, {}, names)
    except (NameError, AttributeError, SyntaxError, TypeError):
        # Imported for type checkers only: a port is still known by the name of its class.
        return _port_called(annotation.replace("| None", "").strip(" '\"")) or UNKNOWN


def _port_called(name: str) -> type | None:
    from crucible_kitchen.ports import PORTS

    return next((port for port in PORTS.values() if port.__name__ == name.split(".")[-1]), None)


def _names_seen_by(function: Callable[..., Any], scope: Mapping[str, Any]) -> ChainMap[str, Any]:
    """Closure, globals, and the scope of the declaration, in the order of Python's own look-up."""
    inner = inspect.unwrap(function)
    inner = getattr(inner, "__func__", inner)
    closure: dict[str, Any] = {}
    free = getattr(getattr(inner, "__code__", None), "co_freevars", ())
    for name, cell in zip(free, getattr(inner, "__closure__", None) or (), strict=False):
        try:
            closure[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return ChainMap(closure, dict(scope), getattr(inner, "__globals__", {}), vars(builtins))


def without_none(kind: Any) -> tuple[Any, bool]:
    """``X | None`` as ``(X, True)``, anything else as ``(kind, False)``."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [member for member in typing.get_args(kind) if member is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return kind, False


def _role(kind: Any, name: str, annotated: bool) -> tuple[str, bool] | None:
    """Role of an injected parameter and whether it is a port; None for a key that is read."""
    from crucible_kitchen.ports import Port

    if is_class(kind):
        if issubclass(kind, Port):
            return kind.name, True
        if issubclass(kind, logging.Logger):
            return "logger", False
        role = getattr(kind, "injected_as", None)
        if isinstance(role, str):
            return role, False
    return ("context", False) if name == "ctx" and not annotated else None


def read_signature(
    function: Callable[..., Any],
    writes: str | Sequence[str] | None = None,
    *,
    returns_writes: bool = True,
    depth: int = 2,
) -> Signature:
    """Read a function's declaration.

    Args:
        function: what will be called.
        writes: keys written, where the return annotation is no NamedTuple.
        returns_writes: False for predicates and iterables, whose result is no key.
        depth: frames between this call and the declaration, whose local names annotations may use.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        name = getattr(function, "__name__", repr(function))
        message = f"{name!r} has no readable signature"
        return Signature(defects=(Defect("bad-signature", message, "wrap it in a lambda"),))
    names = _names_seen_by(function, sys._getframe(depth).f_locals)
    read: list[Read | Injected | Defect] = [_read_parameter(one, names) for one in parameters]
    defects = [one for one in read if isinstance(one, Defect)]
    target = function if inspect.isroutine(function) else type(function).__call__
    declared: tuple[Write, ...] = ()
    record = None
    given = getattr(inspect.unwrap(function), "__annotations__", {}).get("return", MISSING)
    if returns_writes:
        declared, record, wrong = _read_writes(given, names, writes)
        defects += wrong
        if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
            message = "a stage cannot be a generator"
            defects.append(Defect("bad-signature", message, "return the values, do not yield"))
    return Signature(
        reads=tuple(one for one in read if isinstance(one, Read)),
        injected=tuple(one for one in read if isinstance(one, Injected)),
        writes=declared,
        order=tuple(one.name for one in parameters if one.kind in _POSITIONAL),
        record=record,
        is_async=inspect.iscoroutinefunction(target),
        defects=tuple(defects),
        returns=UNKNOWN if returns_writes else _resolve(given, names),
    )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _read_parameter(
    parameter: inspect.Parameter, names: ChainMap[str, Any]
) -> Read | Injected | Defect:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        message = f"parameter '{stars}{parameter.name}' names no key"
        return Defect("bad-signature", message, "name each key that is read")
    annotated = parameter.annotation is not MISSING
    whole = _resolve(parameter.annotation, names)
    kind, optional = without_none(whole)
    role = _role(kind, parameter.name, annotated)
    if role is not None:
        required = not optional and parameter.default is MISSING
        return Injected(parameter.name, *role, required)
    if parameter.kind is parameter.KEYWORD_ONLY:
        return _not_injectable(parameter, kind)
    return Read(parameter.name, parameter.name, whole, parameter.default)


def _not_injectable(parameter: inspect.Parameter, kind: Any) -> Defect:
    shown = "no annotation"
    if parameter.annotation is not MISSING:
        shown = parameter.annotation if kind is UNKNOWN else getattr(kind, "__name__", str(kind))
    return Defect(
        "not-injectable",
        f"keyword-only parameter {parameter.name!r} must be annotated with a port, Metrics, Rng, "
        f"Logger or Context, got {shown}",
        "keys that are read stand before the star",
    )


def _read_writes(
    annotation: Any, names: ChainMap[str, Any], writes: str | Sequence[str] | None
) -> tuple[tuple[Write, ...], type | None, tuple[Defect, ...]]:
    kind = _resolve(annotation, names)
    if is_named_tuple(kind) and writes is None:
        hints = _field_types(kind, names)
        return tuple(Write(name, hints.get(name, UNKNOWN)) for name in kind._fields), kind, ()
    if isinstance(writes, str):
        return (Write(writes, type(None) if kind is None else kind),), None, ()
    if writes is not None:
        keys = tuple(writes)
        members = typing.get_args(kind) if typing.get_origin(kind) is tuple else ()
        kinds = members if len(members) == len(keys) else (UNKNOWN,) * len(keys)
        if is_named_tuple(kind) and len(kind._fields) == len(keys):
            kinds = tuple(_field_types(kind, names).get(name, UNKNOWN) for name in kind._fields)
        return tuple(Write(key, kind) for key, kind in zip(keys, kinds, strict=True)), None, ()
    if annotation is MISSING or kind is None or kind is type(None):
        return (), None, ()
    shown = annotation if isinstance(annotation, str) else getattr(kind, "__name__", str(kind))
    defect = Defect(
        "unnamed-write",
        f"returns {shown} but names no key for it",
        'name it, @stage(writes="..."), or return a NamedTuple whose fields are the keys',
    )
    return (), None, (defect,)


def _field_types(record: Any, names: ChainMap[str, Any]) -> dict[str, Any]:
    home = sys.modules.get(record.__module__)
    seen = names.new_child(vars(home) if home else {})
    return {
        name: _resolve(getattr(hint, "__forward_arg__", hint), seen)
        for name, hint in record.__annotations__.items()
    }
