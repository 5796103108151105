"""`View`: what users see of a mapping that they may not change."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import Any

from crucible_kitchen.errors import CrucibleError, did_you_mean


class MissingKeyError(CrucibleError, KeyError, AttributeError):
    """A key was read that is not there; a `KeyError` and an `AttributeError` at once."""

    def __str__(self) -> str:
        return str(self.args[0])


class View(Mapping[str, Any]):
    """A read-only mapping whose keys are attributes too: ``config.epochs`` is ``config["epochs"]``.

    Keys may hold dots (``epochs.item``); ``state.epochs.item`` reads them as well.
    """

    __slots__ = ("_data", "_label")
    _data: Mapping[str, Any]
    _label: str

    def __init__(self, data: Mapping[str, Any], label: str) -> None:
        object.__setattr__(self, "_data", data)
        object.__setattr__(self, "_label", label)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._data[key]
        except KeyError:
            raise MissingKeyError(
                f"{self._label}: no key {key!r}; {did_you_mean(key, self._data) or 'it is empty'}"
            ) from None

    def __getattr__(self, key: str) -> Any:
        if key in self._data:
            return self._data[key]
        if key.startswith("__"):  # copy, pickle and friends probe for these
            raise AttributeError(key)
        dotted = {k[len(key) + 1 :]: v for k, v in self._data.items() if k.startswith(f"{key}.")}
        return View(dotted, f"{self._label}.{key}") if dotted else self[key]

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(
            f"{self._label}: read-only; return a new context instead of setting {key!r}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def items(self) -> ItemsView[str, Any]:
        return ItemsView(self._data)

    def __repr__(self) -> str:
        # Keys only: values may be secrets or gigabytes.
        return f"<{self._label}: {', '.join(map(str, self._data)) or 'empty'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return View, (dict(self._data), self._label)
