"""What a run tells those who listen: `Event` values, and the `Emitter` that hands them out."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

KINDS = (
    "run.start",
    "run.stop",
    "run.error",
    "block.start",
    "block.stop",
    "block.error",
    "iteration.start",
    "stage.start",
    "stage.stop",
    "stage.error",
    "stage.retry",
    "stage.cached",
    "checkpoint",
    "metric",
)


class Event(NamedTuple):
    """Something that happened; fields that do not apply are None.

    Args:
        kind: one of `KINDS`.
        path: id of the execution, such as ``sft/epochs[2]/batches[153]/optim_step``.
        time: seconds since the epoch.
        duration_s: of what stopped or failed.
        block: of block events: ``loop``, ``fan_out``, ``parallel``, ``scope``, ``on_error`` or
            ``finally``.
        iteration: of iteration events, from 0.
        total: of a loop's events: how many iterations there will be, None where nobody knows.
        attempt: of retry events: the one that failed, from 1.
        error: text of what went wrong, without secrets.
        name: of a metric, or of the workflow.
        value: of a metric.
        step: of a metric.
        metadata: of a metric or of the run.
    """

    kind: str
    path: str
    time: float
    duration_s: float | None = None
    block: str | None = None
    iteration: int | None = None
    total: int | None = None
    attempt: int | None = None
    error: str | None = None
    name: str | None = None
    value: float | None = None
    step: int | None = None
    metadata: Mapping[str, Any] | None = None


Handler = Callable[[Event], object]


class Emitter:
    """Hands events to handlers; one that fails is reported once, then left out.

    Args:
        handlers: called with every event, in order.
    """

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers = list(handlers)
        self._all = tuple(self.handlers)
        self._lock = threading.RLock()  # a handler may record a metric of its own

    @property
    def emit(self) -> Handler:
        """The shortest way to hand out an event, for one thread."""
        if len(self.handlers) != 1:
            return self.__call__
        (handler,) = self.handlers
        works = True

        def emit(event: Event) -> None:
            nonlocal works
            try:
                if works:
                    handler(event)
            except Exception as error:  # noqa: BLE001 - as in `__call__`
                works = False
                self._detach(handler, error)

        return emit

    def one_at_a_time(self, event: Event) -> None:
        """Hand out an event where several threads have some; handlers need not know."""
        with self._lock:
            self(event)

    def __call__(self, event: Event) -> None:
        """Hand out an event; called by one thread at a time."""
        for handler in self.handlers:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - whatever a listener does, the run goes on
                self._detach(handler, error)

    def _detach(self, handler: Handler, error: Exception) -> None:
        # A new list: the loop above may still be walking the old one.
        self.handlers = [other for other in self.handlers if other is not handler]
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        warnings.warn(
            f"handler {name} failed and gets no more events: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )

    def close(self) -> None:
        """Close every handler that can be closed."""
        for handler in self._all:
            close = getattr(handler, "close", None)
            if close is None:
                continue
            try:
                close()
            except Exception as error:  # noqa: BLE001 - as above
                self._detach(handler, error)
