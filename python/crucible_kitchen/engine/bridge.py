"""Where async stages run: an event loop on a thread of its own, or the loop of the caller."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

_GRACE_S = 5.0


class Bridge:
    """Runs coroutines for a run whose own code is not async.

    Args:
        loop: of the caller who awaits the run; None starts one on a thread when first needed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._owned: threading.Thread | None = None
        self._task: asyncio.Task[Any] | None = None

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine to its end and give its result.

        An interrupt of the waiting thread cancels the coroutine, and lets it finish its clean-up.

        Args:
            coroutine: to run.
            timeout: seconds after which it is cancelled.
        Raises:
            TimeoutError: it took longer.
        """
        loop = self._start()
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        context = contextvars.copy_context()

        def start() -> None:
            self._task = context.run(loop.create_task, _contained(coroutine, timeout))
            self._task.add_done_callback(lambda task: _hand_over(task, done))

        loop.call_soon_threadsafe(start)
        try:
            concurrent.futures.wait([done])
        except BaseException:  # Ctrl-C while waiting
            self.cancel()
            concurrent.futures.wait([done], timeout=_GRACE_S)
            raise
        finally:
            self._task = None
        error, value = done.result()
        if error is not None:
            raise error
        return value

    def cancel(self) -> None:
        """Cancel the coroutine that is running, if any; from any thread."""
        task, loop = self._task, self._loop
        if task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """End the thread, if one was started."""
        if self._owned is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._owned.join()
            self._owned = None

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._owned = threading.Thread(
                target=_serve, args=(self._loop,), name="crucible-async", daemon=True
            )
            self._owned.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _contained(
    coroutine: Coroutine[Any, Any, Any], timeout: float | None
) -> tuple[BaseException | None, Any]:
    """The error and the value of a coroutine; an exit must reach the run, not end the loop."""
    try:
        if timeout is None:
            return None, await coroutine
        return None, await asyncio.wait_for(coroutine, timeout)
    except asyncio.TimeoutError as error:
        if timeout is None or error.args:
            return error, None
        return TimeoutError(f"took longer than its timeout of {timeout} s"), None
    except BaseException as error:  # noqa: BLE001 - raised again by `Bridge.call`
        return error, None


def _hand_over(task: asyncio.Task[Any], done: concurrent.futures.Future[Any]) -> None:
    if task.cancelled():
        done.set_result((asyncio.CancelledError(), None))
    else:
        done.set_result(task.result())
