"""One thread that does all computation of a client, in the order in which it was asked for."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Future

T = TypeVar("T")


class Worker:
    """A queue with one thread; a call that fails leaves the calls after it alone.

    Args:
        port: whose worker it is, for the error of a closed one.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._closed = False
        self._executor = concurrent.futures.ThreadPoolExecutor(1, f"crucible-{port}")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Put work at the end of the queue.

        Raises:
            PortError: the client is closed.
        """
        if self._closed:
            raise PortError(f"{self._port}: the client must be open, it was closed")
        return Future.of(self._executor.submit(work))

    def close(self) -> None:
        """Abandon what waits, finish what runs, and end the thread; again, it changes nothing."""
        self._closed = True
        self._executor.shutdown(wait=True, cancel_futures=True)
