"""Keeps secrets out of errors and events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "[hidden]"
# A tokenizer is no secret, though its name begins like one.
_SECRET = re.compile(r"key|token(?!iz)|secret|password", re.IGNORECASE)
_SHORTEST = 4
# What stands between a user's name and the host in a URL.
_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")


def is_secret(key: object) -> bool:
    """Whether the value under a key must not be shown."""
    return isinstance(key, str) and _SECRET.search(key) is not None


def hides(key: object, value: object) -> bool:
    """Whether a value must not be shown: numbers such as ``max_tokens`` are no secrets."""
    return is_secret(key) and value is not None and not isinstance(value, (bool, int, float))


def secrets_in(value: Any, hidden: bool = False) -> Iterator[str]:
    """Every secret text inside a nested value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from secrets_in(inner, hidden or is_secret(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from secrets_in(inner, hidden)
    elif hasattr(value, "get_secret_value"):
        yield from secrets_in(value.get_secret_value(), True)
    elif isinstance(value, str):
        if hidden and len(value) >= _SHORTEST:
            yield value
        if "://" in value:
            yield from (found[2] for found in _PASSWORD.finditer(value))


def without_passwords(text: str) -> str:
    """A text whose URLs show no password."""
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", text) if "://" in text else text


def hide(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with its secrets hidden, at any depth."""
    return {key: HIDDEN if hides(key, value) else _shown(value) for key, value in values.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return hide(value)
    return without_passwords(value) if isinstance(value, str) else value


class Redactor:
    """Replaces the secrets of a run wherever they turn up in a text.

    Args:
        *sources: mappings, such as the configuration and the options of adapters.
    """

    def __init__(self, *sources: Any) -> None:
        # Longest first, so that a secret inside another one leaves nothing behind.
        self._secrets = sorted(
            {s for source in sources for s in secrets_in(source)}, key=len, reverse=True
        )

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def clean(self, error: BaseException) -> None:
        """Take the secrets out of an exception and its causes: a traceback prints them all."""
        seen: set[int] = set()
        current: BaseException | None = error
        while current is not None and self._secrets and id(current) not in seen:
            seen.add(id(current))
            current.args = tuple(self(arg) if isinstance(arg, str) else arg for arg in current.args)
            current = current.__cause__ or current.__context__
