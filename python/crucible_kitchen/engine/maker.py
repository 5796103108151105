"""`Maker`: a thread that makes items beside who uses them, as far ahead as it is granted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from queue import SimpleQueue
from typing import TypeVar

from .crew import Crew

M = TypeVar("M", bound="Maker")


class Maker(ABC):
    """Begins an item only when the other side has granted one; neither side polls.

    Use it in ``with``: the thread ends with the block, after the item that it is making.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        # Unlike a Condition, a SimpleQueue is safe to interrupt.
        self._grants: SimpleQueue[bool] = SimpleQueue()
        self._closed = False
        self._crew = Crew(lambda slot: self._work(), name)

    def __enter__(self: M) -> M:
        try:
            self._crew.start(0)
        except BaseException:  # Ctrl-C: the thread may run already
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, after the item that it is making."""
        self._closed = True
        self._grants.put(False)
        self._crew.close()

    def grant(self, count: int = 1) -> None:
        """Have some more items made."""
        for _ in range(count):
            self._grants.put(True)

    def _granted(self) -> bool:
        """Wait until an item may be made; False where nobody wants any more."""
        return self._grants.get() and not self._closed

    @abstractmethod
    def _work(self) -> None:
        """What the thread does: an item each time that it is `_granted` one."""
