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


class Call:
    """A coroutine that runs in an event loop on another thread, from `result` on.

    Args:
        loop: where it runs.
        coroutine: to run.
        timeout: seconds after which it is cancelled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        timeout: float | None,
    ) -> None:
        # Here and not above: asyncio takes long to import, and many runs have no async stage.
        from .loop import contained, hand_over

        self._loop = loop
        self._done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        # Set and read in the thread of the loop, as whether it is to be cancelled.
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        context = contextvars.copy_context()

        def start() -> None:
            self._task = context.run(loop.create_task, contained(coroutine, timeout))
            self._task.add_done_callback(finish)
            if self._cancelled:
                self._task.cancel()

        def finish(task: asyncio.Task[Any]) -> None:
            coroutine.close()  # where it was cancelled before it began, Python would complain
            hand_over(task, self._done)

        self._start = start

    def result(self) -> Any:
        """Begin it, and wait for its end.

        An interrupt of the waiting thread cancels it, and lets it finish its clean-up.

        Raises:
            TimeoutError: it took too long.
        """
        try:
            # Not before: an interrupt on the way here would leave it running.
            self._loop.call_soon_threadsafe(self._start)
            concurrent.futures.wait([self._done])
        except BaseException:  # Ctrl-C while waiting
            self.cancel()
            concurrent.futures.wait([self._done], timeout=_GRACE_S)
            raise
        error, value = self._done.result()
        if error is not None:
            raise error
        return value

    def cancel(self) -> None:
        """Cancel it, from any thread; whoever waits for it is told when it has ended."""

        def cancel() -> None:
            self._cancelled = True
            if self._task is not None:
                self._task.cancel()

        self._loop.call_soon_threadsafe(cancel)


class Bridge:
    """Runs coroutines for a run whose own code is not async.

    Args:
        loop: of the caller who awaits the run; None starts one on a thread when first needed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._owned: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Call:
        """A call of a coroutine; its `result` starts it.

        Args:
            coroutine: to run.
            timeout: seconds after which it is cancelled, and its result is a `TimeoutError`.
        """
        return Call(self._start(), coroutine, timeout)

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
