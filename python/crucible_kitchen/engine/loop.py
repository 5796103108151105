"""The asyncio side of `Bridge`."""

from __future__ import annotations

import asyncio
import concurrent.futures
from asyncio import new_event_loop
from collections.abc import Coroutine
from typing import Any

__all__ = ["contained", "hand_over", "new_event_loop", "serve"]


def serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then end what is left in it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


async def contained(
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


def hand_over(task: asyncio.Task[Any], done: concurrent.futures.Future[Any]) -> None:
    """Pass on what `contained` gave."""
    if task.cancelled():
        done.set_result((asyncio.CancelledError(), None))
    else:
        done.set_result(task.result())
