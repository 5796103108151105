"""Arguments and results of ports as JSON, and back."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from crucible_kitchen import types
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import HasMetadata, Session, SessionConfig, run_id_of
from crucible_kitchen.types import Record, TensorData

_RECORDS: Final = {
    name: kind
    for name, kind in vars(types).items()
    if isinstance(kind, type) and issubclass(kind, Record)
}


class Handle:
    """Stands in a replay for a value that only the recorded adapter could use."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise PortError(
            f"replaying: a recorded handle has no {name!r}: what the adapter's own values can do "
            "is not on the tape"
        )


class Codec:
    """Turns values to JSON and back; a value it does not know is numbered by its first appearance.

    Handles go along by number, so one codec serves one tape.
    """

    def __init__(self) -> None:
        self._seen: list[Any] = []
        self._handles: dict[int, Handle] = {}

    def encode(self, value: Any) -> Any:
        """`value` as what JSON can hold."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(value)}
        if isinstance(value, list | range):
            return [self.encode(item) for item in value]
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item) for item in value]}
        if isinstance(value, bytes | bytearray | memoryview):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, Mapping):
            return self._mapping(value)
        return self._own(value)

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: self.encode(item) for key, item in value.items()}
        return {"$map": [[self.encode(key), self.encode(item)] for key, item in value.items()]}

    def _own(self, value: Any) -> Any:
        if isinstance(value, Handle):
            return {"$handle": value.number}
        if isinstance(value, TensorData | np.ndarray):
            tensor = TensorData(value)
            data = base64.b64encode(tensor.to_bytes()).decode()
            return {"$tensor": [tensor.dtype, list(tensor.shape), data]}
        if isinstance(value, np.generic):
            return self.encode(value.item())
        if isinstance(value, Record):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
            return {"$record": type(value).__name__, "fields": self.encode(fields)}
        if isinstance(value, SessionConfig):
            return {"$config": value.model_dump()}
        if isinstance(value, Session):
            return {"$session": value.id, "config": value.config.model_dump()}
        if isinstance(value, PurePath):
            return str(value)
        if callable(value) and hasattr(value, "__qualname__"):
            return {"$function": f"{value.__module__}.{value.__qualname__}"}
        if isinstance(value, HasMetadata):
            return run_id_of(value)
        return {"$handle": self._number(value)}

    def _number(self, value: Any) -> int:
        # By identity, and kept alive, so that no other value can take its place.
        for number, seen in enumerate(self._seen):
            if seen is value:
                return number
        self._seen.append(value)
        return len(self._seen) - 1

    def decode(self, value: Any) -> Any:
        """What `encode` made into JSON; a handle where it was a value of the adapter's own.

        Raises:
            KeyError, TypeError, ValueError: it is nothing that `encode` makes.
        """
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        mark = next((key for key in value if key.startswith("$")), None)
        if mark is None:
            return {key: self.decode(item) for key, item in value.items()}
        return self._marked(mark, value[mark], value)

    def _marked(self, mark: str, item: Any, whole: dict[str, Any]) -> Any:
        if mark == "$float":
            return float(item)
        if mark == "$tuple":
            return tuple(self.decode(item))
        if mark == "$bytes":
            return base64.b64decode(item)
        if mark == "$map":
            return {self.decode(key): self.decode(inner) for key, inner in item}
        if mark == "$tensor":
            dtype, shape, data = item
            return TensorData(base64.b64decode(data), dtype, shape)
        if mark == "$record":
            return _RECORDS[item](**self.decode(whole["fields"]))
        if mark == "$config":
            return SessionConfig.coerce(item)
        if mark == "$session":
            return Session(item, SessionConfig.coerce(whole["config"]))
        if mark == "$handle":
            return self._handles.setdefault(item, Handle(item))
        raise ValueError(f"an unknown mark {mark!r}")
