"""`Record`: what all small values of this package share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crucible_kitchen.errors import did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self


class Record:
    """Base of frozen dataclasses that mappings can make and ``value["field"]`` reads."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The value whose fields a mapping holds.

        Raises:
            ValueError: a key is not a field, or a field without a default is absent.
            TypeError, ValueError: as the constructor.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in fields:
            if key not in known:
                advice = did_you_mean(str(key), known)
                raise ValueError(f"{cls.__name__}: key must be a field, got {key!r}; {advice}")
        absent = [
            name
            for name, field in known.items()
            if name not in fields
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if absent:
            raise ValueError(
                f"{cls.__name__}: {', '.join(absent)} must be given, got {list(fields)}"
            )
        return cls(**fields)

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str) or key not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            raise KeyError(key)
        return getattr(self, key)


def finite(op: str, argument: str, value: Any, *, low: float = -math.inf) -> float:
    """`value` as a float, which must be finite and at least `low`.

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN, infinite or below `low`.
    """
    wanted = "a finite number" if low == -math.inf else f"a finite number of at least {low:g}"
    try:
        # float() reads text too, but a number that came as text is a mistake somewhere else.
        number = float(None if isinstance(value, str | bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {argument} must be {wanted}, got {value!r}") from None
    if not math.isfinite(number) or number < low:
        raise ValueError(f"{op}: {argument} must be {wanted}, got {value!r}")
    return number
