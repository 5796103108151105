"""What a run tells those who listen: `Event` values, and the `Emitter` that hands them out."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from crucible_kitchen.errors import did_you_mean

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


class _Told(NamedTuple):
    """What every event has, and what few of them have: names and values."""

    kind: str
    path: str
    time: float
    duration_s: float | None
    more: tuple[tuple[str, Any], ...]


class Event(_Told):
    """Something that happened; fields that do not apply are None.

    Args:
        kind: one of `KINDS`.
        path: id of the execution, such as ``sft/epochs[2]/batches[153]/optim_step``.
        time: seconds since the epoch.
        duration_s: of what stopped or failed.
        **more: those of the properties that apply.
    Raises:
        TypeError: there is no such field.
    """

    __slots__ = ()

    def __new__(
        cls, kind: str, path: str, time: float, duration_s: float | None = None, **more: Any
    ) -> Event:
        unknown = [name for name in more if name not in _MORE]
        if unknown:
            raise TypeError(f"Event: no field {unknown[0]!r}; {did_you_mean(unknown[0], _MORE)}")
        said = tuple((name, value) for name, value in more.items() if value is not None)
        return new(cls, (kind, path, time, duration_s, said))

    @property
    def block(self) -> str | None:
        """``loop``, ``fan_out``, ``parallel``, ``scope``, ``on_error`` or ``finally``."""
        return dict(self.more).get("block")

    @property
    def iteration(self) -> int | None:
        """Which one it is, from 0."""
        return dict(self.more).get("iteration")

    @property
    def total(self) -> int | None:
        """How many iterations the loop will have; None where nobody knows."""
        return dict(self.more).get("total")

    @property
    def attempt(self) -> int | None:
        """The one that failed and is followed by another, from 1."""
        return dict(self.more).get("attempt")

    @property
    def error(self) -> str | None:
        """What went wrong, without secrets."""
        return dict(self.more).get("error")

    @property
    def name(self) -> str | None:
        """Of a metric, or of the workflow."""
        return dict(self.more).get("name")

    @property
    def value(self) -> float | None:
        """Of a metric."""
        return dict(self.more).get("value")

    @property
    def step(self) -> int | None:
        """Of a metric."""
        return dict(self.more).get("step")

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """Of a metric or of the run."""
        return dict(self.more).get("metadata")

    def _asdict(self) -> dict[str, Any]:
        """Every field, those that do not apply too."""
        every = dict.fromkeys(("kind", "path", "time", "duration_s", *_MORE))
        return {**every, **dict(zip(_Told._fields[:4], self[:4], strict=True)), **dict(self.more)}

    def __repr__(self) -> str:
        fields = (
            f"{name}={value!r}" for name, value in self._asdict().items() if value is not None
        )
        return f"{type(self).__name__}({', '.join(fields)})"

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self[:4], dict(self.more)


_MORE = tuple(name for name, found in vars(Event).items() if isinstance(found, property))

new = tuple.__new__
"""``new(Event, (kind, path, time, duration_s, more))``, for the two events of each stage: the
class's own call costs four times as much."""

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

        def emit(event: Event) -> None:
            nonlocal handler
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - as in `__call__`
                failed, handler = handler, _deaf
                self._detach(failed, error)

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


def _deaf(event: Event) -> None:
    """Stands for a handler that has failed."""
