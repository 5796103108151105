"""`Order`: what waits for what in a group of neighbours, and how long each of them takes."""

from __future__ import annotations

from collections.abc import Sequence


class Order:
    """What waits for what in a group, and how long its parts take.

    A part is a node, or neighbours of which each waits for the one before it, while nothing else
    waits for one that has others behind it: they run one after the other in any case, and as one
    part they are begun and joined once.

    Args:
        waits: for each node of the group a bit set of those it waits for.
        apart: whether every node is a part of its own, as a journal needs it.

    Attributes:
        parts: where each begins in the group, and where it ends.
        waits: for each part a bit set of those it waits for.
        behind: for each part those that wait for it.
        seconds: what each took when it last ran, None for one that has not; those who run them say.
    """

    def __init__(self, waits: Sequence[int], *, apart: bool) -> None:
        every = [(place, place + 1) for place in range(len(waits))]
        self.parts = every if apart else _parts(waits)
        self.waits = waits if apart else _between(self.parts, waits)
        self.seconds: list[float | None] = [None] * len(self.parts)
        self.behind = _behind(self.waits)
        self._free = [
            ~known & ((1 << place) - 1) for place, known in enumerate(_before(self.waits))
        ]

    def pays(self, long_s: float) -> bool:
        """Whether two that are free of each other both take long, or have not been measured."""
        long = 0
        for number, seconds in enumerate(self.seconds):
            if seconds is None or seconds >= long_s:
                long |= 1 << number
        return any(self._free[number] & long for number in _places(long))

    def sum(self) -> float:
        """Seconds of all of them, one after the other."""
        return sum(seconds or 0.0 for seconds in self.seconds)

    def forget(self) -> None:
        """Have all of them measured anew."""
        self.seconds[:] = [None] * len(self.seconds)

    def urgency(self) -> list[float]:
        """For each node how long the run still takes from there on; 0 where that is not known."""
        left = [0.0] * len(self.seconds)
        if None not in self.seconds:
            for number in reversed(range(len(left))):
                after = [left[other] for other in self.behind[number]]
                left[number] = (self.seconds[number] or 0.0) + max(after, default=0.0)
        return left


def _places(bits: int) -> list[int]:
    """The numbers in a bit set."""
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


def _behind(waits: Sequence[int]) -> list[list[int]]:
    """For each place those that wait for it."""
    behind: list[list[int]] = [[] for _ in waits]
    for place, needed in enumerate(waits):
        for earlier in _places(needed):
            behind[earlier].append(place)
    return behind


def _before(waits: Sequence[int]) -> list[int]:
    """For each place a bit set of all that comes before it, also by way of others."""
    before: list[int] = []
    for direct in waits:
        everything = direct
        for other in _places(direct):
            everything |= before[other]
        before.append(everything)
    return before


def _parts(waits: Sequence[int]) -> list[tuple[int, int]]:
    """Where the parts of a group begin and end, see `Order`."""
    before, behind = _before(waits), _behind(waits)
    starts = [0]
    for place in range(1, len(waits)):
        last = place - 1
        follows = before[place] == before[last] | 1 << last
        if not (
            follows and all(before[other] >> place & 1 for other in behind[last] if other > place)
        ):
            starts.append(place)
    return list(zip(starts, [*starts[1:], len(waits)], strict=True))


def _between(parts: Sequence[tuple[int, int]], waits: Sequence[int]) -> list[int]:
    """For each part a bit set of the parts that its nodes wait for."""
    part_of = [number for number, (start, end) in enumerate(parts) for _ in range(start, end)]
    found = []
    for number, (start, end) in enumerate(parts):
        needed = {part_of[other] for place in range(start, end) for other in _places(waits[place])}
        found.append(sum(1 << other for other in needed - {number}))
    return found
