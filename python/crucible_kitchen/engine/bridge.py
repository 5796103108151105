"""Where async stages run: an event loop on a thread of its own, or the loop of the caller."""

from __future__ import annotations

import concurrent.futures
import contextvars
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_GRACE_S = 5.0


class Bridge:
    """Runs coroutines for a run whose own code is not async.

    Args:
        loop: of the caller who awaits the run; None starts one on a thread when first needed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._owned: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine to its end and give its result.

        An interrupt of the waiting thread cancels the coroutine, and lets it finish its clean-up.

        Args:
            coroutine: to run.
            timeout: seconds after which it is cancelled.
        Raises:
            TimeoutError: it took longer.
        """
        # Here and not above: asyncio takes long to import, and many runs have no async stage.
        from .loop import contained, hand_over

        loop = self._start()
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        context = contextvars.copy_context()

        mine: list[asyncio.Task[Any]] = []

        def start() -> None:
            task = context.run(loop.create_task, contained(coroutine, timeout))
            mine.append(task)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda task: hand_over(task, done))

        loop.call_soon_threadsafe(start)
        try:
            concurrent.futures.wait([done])
        except BaseException:  # Ctrl-C while waiting
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in mine])
            concurrent.futures.wait([done], timeout=_GRACE_S)
            raise
        error, value = done.result()
        if error is not None:
            raise error
        return value

    def cancel(self) -> None:
        """Cancel the coroutines that are running, if any; from any thread."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in list(self._tasks)])

    def close(self) -> None:
        """End the thread, if one was started."""
        if self._owned is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._owned.join()
            self._owned = None

    def _start(self) -> asyncio.AbstractEventLoop:
        from .loop import new_event_loop, serve

        with self._lock:
            if self._loop is None:
                self._loop = new_event_loop()
                self._owned = threading.Thread(
                    target=serve, args=(self._loop,), name="crucible-async", daemon=True
                )
                self._owned.start()
            return self._loop
