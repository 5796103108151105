"""Which values stand in a line of the journal as they are: plain ones, and not many or long."""

from __future__ import annotations

from typing import Any, Final

ALWAYS_SMALL: Final = frozenset({int, bool, type(None)})
"""Types of which every value is small."""
MOST_INLINE: Final = 512
"""Letters of a text, and bytes of what is no JSON."""
MOST_ITEMS: Final = 32
_SCALARS = (int, str, bool, type(None))


def is_small(value: Any) -> bool:
    """Whether a value is JSON that is read back as it was, and fits into a line of the journal."""
    return _left(value, MOST_ITEMS) >= 0


def _left(value: Any, budget: int) -> int:
    """How many more items fit into a line of the journal, -1 where the value does not."""
    kind = type(value)
    if kind is str and len(value) > MOST_INLINE:
        return -1
    if kind in _SCALARS:
        return budget - 1
    if kind is float:  # NaN and the infinities are not JSON
        return budget - 1 if value - value == 0 else -1
    if kind not in (list, dict) or len(value) > budget:
        return -1
    if kind is dict and not all(type(key) is str and not key.startswith("$") for key in value):
        return -1
    for inner in value.values() if kind is dict else value:
        budget = _left(inner, budget)
        if budget < 0:
            return -1
    return budget
