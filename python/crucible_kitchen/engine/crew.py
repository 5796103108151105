"""`Crew`: threads that a run starts, none of which outlives what it was started for."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

MOST_THREADS: Final = min(32, (os.cpu_count() or 1) + 4)
"""That run at once where nobody says how many may."""


class Crew:
    """Threads that are waited for, however the waiting is interrupted.

    Interrupted, `Thread.start` does not tell whether the thread runs, and `Thread.join` takes one
    that runs for one that has ended; so the threads themselves count who is at work.

    Args:
        serve: what each does, given its number.
        name: of the threads, before their numbers.
    """

    def __init__(self, serve: Callable[[int], None], name: str = "crucible-member") -> None:
        self._serve, self._name = serve, name
        self._lock = threading.Lock()
        self._left: SimpleQueue[int] = SimpleQueue()  # unlike a Condition, safe to interrupt
        self._begun = self._ended = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    def start(self, slot: int) -> None:
        """Have one more thread at work."""
        run = contextvars.copy_context().run
        thread = threading.Thread(
            target=run, args=(self._work, slot), name=f"{self._name}-{slot}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Wait until every thread has come and gone; where that is interrupted, `close` does it."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Wait for the threads at work; those that come later leave at once."""
        self._closed = True
        while self._at_work():
            self._left.get()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _work(self, slot: int) -> None:
        with self._lock:
            if self._closed:
                return
            self._begun += 1
        try:
            self._serve(slot)
        finally:
            with self._lock:
                self._ended += 1
            self._left.put(slot)

    def _at_work(self) -> bool:
        with self._lock:
            return self._ended < self._begun
