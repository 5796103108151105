"""Values that were written down in a workflow, as data that JSON and YAML have, and back.

What JSON lacks is a mapping with one key: ``{"tuple": [1, 2]}``, ``{"range": [0, 3, 1]}``,
``{"import": "my.module:Color.RED"}``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from enum import Enum
from typing import Any

from crucible_kitchen.errors import did_you_mean

from .paths import NotFound, Unwritable, find, path_of

_READ: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda items: tuple(map(from_plain, _list(items))),
    "set": lambda items: set(map(from_plain, _list(items))),
    "frozenset": lambda items: frozenset(map(from_plain, _list(items))),
    "range": lambda bounds: range(*_list(bounds)),
    "float": lambda text: float(_text(text)),
    "bytes": lambda text: base64.b64decode(_text(text), validate=True),
    "dict": lambda pairs: {from_plain(key): from_plain(value) for key, value in _list(pairs)},
    "import": lambda path: find(_text(path)),
}
TAGS = tuple(_READ)


def to_plain(value: Any) -> Any:
    """A value as data of JSON.

    Raises:
        Unwritable: it is of a kind that has no text, or would not come back equal.
    """
    plain = _plain(value)
    back = from_plain(plain)
    if back is not value and not bool(back == value):
        raise Unwritable(f"{value!r:.60} would not come back equal")
    return plain


def _plain(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {"float": repr(value)}
    if kind is list:
        return [_plain(item) for item in value]
    if kind is tuple:
        return {"tuple": [_plain(item) for item in value]}
    if kind in (set, frozenset):
        # Sorted, so that equal workflows have equal texts.
        return {kind.__name__: sorted((_plain(item) for item in value), key=repr)}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if kind is dict:
        if all(type(key) is str for key in value) and not (len(value) == 1 and _tag(value)):
            return {key: _plain(item) for key, item in value.items()}
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, (Enum, type)) or callable(value):
        return {"import": path_of(value)}
    raise Unwritable(
        f"a value of type {kind.__name__} cannot be written",
        "use numbers, texts, lists, or a function that gives the value",
    )


def from_plain(plain: Any) -> Any:
    """The value of what `to_plain` gave.

    Raises:
        NotFound: an import path in it names nothing.
        ValueError: what stands under a tag is not of its kind.
    """
    if isinstance(plain, list):
        return [from_plain(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1 and (tag := _tag(plain)):
        try:
            return _READ[tag](plain[tag])
        except TypeError as error:
            raise ValueError(f"{{{tag}: {plain[tag]!r:.40}}}: {error}") from None
    return {key: from_plain(item) for key, item in plain.items()}


def tagged(given: dict[Any, Any]) -> Any:
    """The value of a mapping with one tag, where a bare mapping is not expected.

    Raises:
        NotFound: an import path in it names nothing.
        ValueError: it has another key.
    """
    if len(given) != 1 or not _tag(given):
        wrong = next((key for key in given if key not in _READ), "")
        known = ("key", "literal", *_READ)
        raise ValueError(
            f"a mapping must have one key that says what it is, got {dict(given)!r:.60}; "
            f"{did_you_mean(str(wrong), known)}"
        )
    return from_plain(given)


def _tag(mapping: dict[Any, Any]) -> str:
    (key,) = list(mapping)[:1]
    return key if isinstance(key, str) and key in _READ else ""


def _list(given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise TypeError(f"must be a list, got {given!r:.40}")
    return given


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"must be a text, got {given!r:.40}")
    return given


__all__ = ["TAGS", "NotFound", "Unwritable", "from_plain", "tagged", "to_plain"]
