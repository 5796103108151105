"""Whether a value of one annotation can be read as another, told only where it is certain."""

from __future__ import annotations

import numbers
import types
import typing
from functools import lru_cache
from typing import Any, TypeGuard, Union

_NUMBERS: dict[type, type] = {float: numbers.Real, int: numbers.Integral, complex: numbers.Complex}


def is_class(kind: object) -> TypeGuard[type[Any]]:
    """Whether it is a class: on Python 3.10 ``list[int]`` says that it is one, and is not."""
    return isinstance(kind, type) and typing.get_origin(kind) is None


def runtime_classes(kind: Any) -> tuple[type, ...] | None:
    """Classes an `isinstance` check may use for an annotation; None where nothing is certain."""
    if type(kind) is type:  # most are plain classes, and each stage of a run asks
        return _of_class(kind)
    if kind is None or kind is type(None):
        return (type(None),)
    if kind is Any or isinstance(kind, (str, typing.TypeVar)):
        return None
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        members = [runtime_classes(member) for member in typing.get_args(kind)]
        return None if None in members else sum((m for m in members if m), ())
    if origin is typing.Annotated:
        return runtime_classes(typing.get_args(kind)[0])
    if origin is typing.Literal:
        return tuple({type(member) for member in typing.get_args(kind)})
    kind = origin or kind
    return _of_class(kind) if isinstance(kind, type) else None


@lru_cache(maxsize=512)
def _of_class(kind: type) -> tuple[type, ...] | None:
    if kind is object or getattr(kind, "_is_protocol", False):
        return None
    if getattr(kind, "__supertype__", None) or typing.is_typeddict(kind):
        return None
    return (kind, _NUMBERS[kind]) if kind in _NUMBERS else (kind,)


def accepts(reader: Any, writer: Any) -> bool:
    """Whether a value declared as `writer` may be what `reader` expects."""
    wanted, given = runtime_classes(reader), runtime_classes(writer)
    if wanted is None or given is None:
        return True
    plain = [kind for kind in given if kind not in _NUMBERS.values()]
    # One member of a union is enough: `Session | None` may well be a Session when it is read.
    return any(_related(one, other) for one in plain for other in wanted)


def _related(given: type, wanted: type) -> bool:
    # A declared base class may hold an instance of the subclass that is wanted.
    return issubclass(given, wanted) or issubclass(wanted, given)


def show(kind: Any) -> str:
    """An annotation as it was written."""
    if kind is None or kind is type(None):
        return "None"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
