"""`attach_telemetry`: those who listen to every run of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any

from crucible_kitchen.errors import ConfigError, did_you_mean

from .events import KINDS, Event, Handler
from .handlers import HANDLERS, make_source

# The one thing of a process that runs share: who listens to all of them.
_ATTACHED: list[Attachment] = []
_LOCK = threading.Lock()


class Attachment:
    """A handler that listens to every run until it is detached; also a context manager."""

    def __init__(
        self,
        make: Callable[[], Handler],
        stop: Callable[[], object],
        kinds: tuple[str, ...],
        paths: tuple[str, ...],
    ) -> None:
        self._make, self._stop = make, stop
        self._kinds, self._paths = kinds, paths
        self.listens = True

    def detach(self) -> None:
        """Listen no more, also to runs that go on, and close the handler; twice is once."""
        with _LOCK:
            here = self in _ATTACHED
            if here:
                _ATTACHED.remove(self)
        if here:
            self.listens = False
            self._stop()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def wants(self, event: Event) -> bool:
        """Whether the handler is to hear of an event."""
        return self.listens and _fits(event.kind, self._kinds) and _fits(event.path, self._paths)

    def handler(self) -> Handler:
        """For one run."""
        return _Filtered(self, self._make())


class _Filtered:
    """Hands on the events that an attachment wants."""

    def __init__(self, attachment: Attachment, handler: Handler) -> None:
        self._wants, self._handler = attachment.wants, handler
        self.__qualname__ = getattr(handler, "__qualname__", type(handler).__qualname__)

    def __call__(self, event: Event) -> None:
        if self._wants(event):
            self._handler(event)

    def close(self) -> None:
        close = getattr(self._handler, "close", None)
        if close is not None:
            close()


def attach_telemetry(
    handler: str | Handler,
    *,
    kinds: str | Iterable[str] = (),
    paths: str | Iterable[str] = (),
    **options: Any,
) -> Attachment:
    """Listen to every run of this process that begins from now on.

    Args:
        handler: ``"console"``, ``"jsonl"`` (``path``), ``"opentelemetry"`` (``tracer_provider``,
            ``meter_provider``), ``"prometheus"`` (``registry``, ``port``, ``path``), or a function
            that takes an `Event`; its `close`, where it has one, is called by `detach`. It is
            called from the threads of the runs, one call at a time.
        kinds: hand on only these kinds of events, such as ``"metric"`` or ``"stage.*"``.
        paths: hand on only events whose path fits one of these, such as ``"*/optim_step"``.
        **options: of the named handler.
    Returns:
        The attachment; its `detach` ends it.
    Raises:
        ConfigError: there is no such handler, option or kind, or a library is missing.
    """
    wanted = _texts("kinds", kinds)
    for kind in wanted:
        if not any(fnmatchcase(known, kind) for known in KINDS):
            raise ConfigError(
                f"attach_telemetry: kinds must fit kinds of events, got {kind!r}; "
                f"{did_you_mean(kind, KINDS)}"
            )
    if isinstance(handler, str):
        _check_options(handler, options)
    elif options:
        raise ConfigError(
            f"attach_telemetry: a function takes no options, got {', '.join(options)}"
        )
    attachment = Attachment(*make_source(handler, options), wanted, _texts("paths", paths))
    with _LOCK:
        _ATTACHED.append(attachment)
    return attachment


def attached() -> list[Handler]:
    """The handlers of those who are attached, for a run that begins."""
    with _LOCK:
        attachments = tuple(_ATTACHED)
    return [attachment.handler() for attachment in attachments]


def _check_options(name: str, options: dict[str, Any]) -> None:
    if name not in HANDLERS:
        raise ConfigError(f"attach_telemetry: no handler {name!r}; {did_you_mean(name, HANDLERS)}")
    known = HANDLERS[name]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known) if known else "it takes none"
            raise ConfigError(f"attach_telemetry: {name} has no option {option!r}; {hint}")


def _texts(name: str, given: str | Iterable[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"attach_telemetry: {name} must be texts, got {texts!r:.80}")
    return texts


def _fits(text: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)
