"""Rows put together so that each pass through the model is nearly full."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows as packs of at most `capacity` tokens, by best-fit decreasing.

    The largest row comes first, and each goes into the fullest pack that still takes it, or into a
    new one. How many packs there are depends on the sizes alone, not on their order.

    Args:
        sizes: tokens of each row.
        capacity: most tokens of a pack.
    Returns:
        Places of the rows of each pack. Every row is in one pack; one that is larger than
        `capacity` has a pack for itself.
    Raises:
        ValueError: `capacity` is below 1.
    """
    if capacity < 1:
        raise ValueError(f"best_fit: capacity must be at least 1, got {capacity}")
    packs: list[list[int]] = []
    # Room that is left -> the packs that have it, and those rooms in order.
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        at = bisect.bisect_left(rooms, sizes[row])
        if at == len(rooms):
            pack, room = len(packs), capacity
            packs.append([])
        else:
            room = rooms[at]
            pack = with_room[room].pop(0)
            if not with_room[room]:
                del with_room[room], rooms[at]
        packs[pack].append(row)
        left = room - sizes[row]
        if left > 0:
            if left not in with_room:
                with_room[left] = []
                bisect.insort(rooms, left)
            bisect.insort(with_room[left], pack)
    return packs
