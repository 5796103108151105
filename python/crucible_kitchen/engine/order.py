"""`Order`: what waits for what in a group of neighbours, and how long each of them takes."""

from __future__ import annotations

from collections.abc import Sequence


class Order:
    """What waits for what in a group, and how long its nodes take.

    Args:
        waits: for each node a bit set of those it waits for.

    Attributes:
        behind: for each node those that wait for it.
        seconds: what each took when it last ran, None for one that has not; those who run them say.
    """

    def __init__(self, waits: Sequence[int]) -> None:
        self.waits = waits
        self.seconds: list[float | None] = [None] * len(waits)
        self.behind: list[list[int]] = [[] for _ in waits]
        for number, needed in enumerate(waits):
            for earlier in _places(needed):
                self.behind[earlier].append(number)
        self._free = _free_of(waits)

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


def _free_of(waits: Sequence[int]) -> list[int]:
    """For each place a bit set of the earlier ones that do not come before it."""
    before: list[int] = []
    for direct in waits:
        everything = direct
        for other in _places(direct):
            everything |= before[other]
        before.append(everything)
    return [~known & ((1 << place) - 1) for place, known in enumerate(before)]
