"""Whether a stage has changed what it was handed, told by a fingerprint before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any

from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.executors import is_async

from .runtime import BorderError

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def fingerprint(value: Any) -> Any:
    """A value that compares equal as long as nothing in `value` has changed.

    Seen are changes of containers at any depth, of arrays and tensors, and of dataclasses. Any
    other object, such as a session, may change: that it is the same one is all that counts.
    """
    return _look(value, ())


def _look(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, _PLAIN):
        return type(value), value
    if id(value) in around:  # a container that holds itself
        return id(value)
    around = (*around, id(value))
    if isinstance(value, Mapping):
        return [(_look(key, around), _look(inner, around)) for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return [_look(inner, around) for inner in value]
    if isinstance(value, Set):
        return frozenset(map(repr, value))
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "_version") and hasattr(value, "data_ptr"):  # torch counts changes in place
        return id(value), value._version
    if hasattr(value, "__array_interface__") and hasattr(value, "tobytes"):
        return value.shape, str(value.dtype), hashlib.blake2b(value.tobytes()).digest()
    if is_dataclass(value) and not isinstance(value, type):
        return [(one.name, _look(getattr(value, one.name), around)) for one in fields(value)]
    return id(value)


def watched(function: Callable[..., Any], node: StageNode) -> Callable[..., Any]:
    """The function of a stage, but refusing to have changed its positional arguments."""
    names = node.signature.order

    def check(args: Sequence[Any], before: list[Any]) -> None:
        for name, value, seen in zip(names, args, before, strict=False):
            if fingerprint(value) != seen:
                raise BorderError(
                    f"changed its input {name!r} in place, which others read as well; "
                    "make a new value and write that"
                )

    def watch(*args: Any, **kwargs: Any) -> Any:
        before = [fingerprint(value) for value in args]
        result = function(*args, **kwargs)
        check(args, before)
        return result

    async def watch_async(*args: Any, **kwargs: Any) -> Any:
        before = [fingerprint(value) for value in args]
        result = await function(*args, **kwargs)
        check(args, before)
        return result

    return watch_async if is_async(node) else watch
