"""`Future`: the result of work that an adapter has started."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from crucible_kitchen.errors import PortError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Future(Generic[T]):
    """A result that may still be on its way; read it with `result`, or ``await`` it.

    Awaiting does not tie the work to the task: cancelling a task that waits leaves the work and
    everyone else who waits for it alone.
    """

    __slots__ = ("_future",)

    def __init__(self, future: concurrent.futures.Future[T]) -> None:
        self._future = future

    @classmethod
    def of(cls, future: concurrent.futures.Future[T]) -> Future[T]:
        """The future of work that an executor runs."""
        return cls(future)

    @classmethod
    def resolved(cls, value: T) -> Future[T]:
        """A future that is done, with `value`."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_result(value)
        return cls(future)

    @classmethod
    def failed(cls, error: BaseException) -> Future[T]:
        """A future that is done, with `error`."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_exception(error)
        return cls(future)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the value.

        Args:
            timeout: most seconds to wait; None waits as long as it takes.
        Raises:
            TimeoutError: it is not done yet.
            PortError: it was abandoned, because its session or adapter was closed.
            Exception: what the work itself raised.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._future.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and give what the work raised; None if it succeeded.

        Raises:
            TimeoutError: it is not done yet, after `timeout` seconds.
        """
        try:
            return self._future.exception(timeout)
        except concurrent.futures.CancelledError:
            return PortError("future: the work was abandoned when its session or adapter closed")
        except concurrent.futures.TimeoutError:
            # Before Python 3.11 this is not yet the builtin TimeoutError.
            raise TimeoutError(
                f"future: result must be ready after {timeout} s, it is not"
            ) from None

    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._future.done()

    def add_done_callback(self, callback: Callable[[Future[T]], object]) -> None:
        """Call `callback` with this future when it is done, at once if it already is.

        It runs on the thread that finishes the work, so it must be short.
        """
        self._future.add_done_callback(lambda _: callback(self))

    def __await__(self) -> Generator[Any, None, T]:
        # Who awaits has imported it already; who does not is spared the time it takes.
        import asyncio

        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()

        def hand_over(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._settle, waiter)

        self._future.add_done_callback(hand_over)
        return waiter.__await__()

    def _settle(self, waiter: asyncio.Future[T]) -> None:
        if waiter.cancelled():
            return
        error = self.exception()
        if error is None:
            waiter.set_result(self._future.result())
        else:
            waiter.set_exception(error)

    def __repr__(self) -> str:
        if not self.done():
            return "Future(pending)"
        error = self.exception()
        return (
            f"Future({self._future.result()!r})" if error is None else f"Future(failed: {error!r})"
        )
