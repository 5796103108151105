"""Those who listen to runs, by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from crucible_kitchen.engine.events import Event, Handler
from crucible_kitchen.errors import ConfigError, did_you_mean

HANDLERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "console": (),
        "jsonl": ("path",),
        "opentelemetry": ("tracer_provider", "meter_provider"),
        "prometheus": ("registry", "port", "path"),
    }
)
"""Name -> what `attach_telemetry` takes for it."""


def make_handlers(given: Iterable[str | Handler], run_dir: Path | None) -> list[Handler]:
    """Handlers of one run from names and callables.

    Args:
        given: ``"console"``, ``"jsonl"``, ``"opentelemetry"``, or callables.
        run_dir: where ``"jsonl"`` writes ``events.jsonl``.
    Raises:
        ConfigError: a name is unknown, or ``"jsonl"`` has no folder.
    """
    if isinstance(given, str):
        given = (given,)
    return [_make(one, run_dir) for one in given]


def make_source(
    given: str | Handler, options: Mapping[str, Any]
) -> tuple[Callable[[], Handler], Callable[[], object]]:
    """What gives a handler to each of many runs, and what ends it.

    Args:
        given: a key of `HANDLERS`, or a callable.
        options: those of the name.
    Raises:
        ConfigError: an option is missing, the file cannot be opened, or a library is not there.
    """
    if given == "console":
        return lambda: _make("console", None), _nothing
    if given == "jsonl":
        return _lines(options)
    if given == "opentelemetry":
        from .opentelemetry import OpenTelemetry

        OpenTelemetry(**options)  # what is missing is told now, not by the first run
        return lambda: OpenTelemetry(**options), _nothing
    if given == "prometheus":
        from .prometheus import Prometheus

        try:
            counting = Prometheus(**options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"handlers: prometheus cannot be attached: {error}") from error
        return counting.for_a_run, counting.stop
    handler = _make(given, None)
    lock = threading.RLock()
    return lambda: _Shared(handler, lock), getattr(handler, "close", _nothing)


def _make(given: str | Handler, run_dir: Path | None) -> Handler:
    if given == "console":
        from .console import Console

        return Console()
    if given == "jsonl":
        from .jsonl import JsonLines

        if run_dir is None:
            raise ConfigError('handlers: "jsonl" needs a run_dir to write events.jsonl into')
        return JsonLines(run_dir / JsonLines.FILE)
    if given == "opentelemetry":
        from .opentelemetry import OpenTelemetry

        return OpenTelemetry()
    if given == "prometheus":
        raise ConfigError(
            "handlers: prometheus counts over runs; attach it once: "
            'attach_telemetry("prometheus", port=...)'
        )
    if isinstance(given, str):
        raise ConfigError(f"handlers: no handler {given!r}; {did_you_mean(given, HANDLERS)}")
    if not callable(given):
        raise ConfigError(f"handlers: a handler must be a name or a callable, got {given!r}")
    return given


def _lines(options: Mapping[str, Any]) -> tuple[Callable[[], Handler], Callable[[], object]]:
    from .jsonl import JsonLines

    path = options.get("path")
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"handlers: jsonl must have a path to write to, got {path!r}")
    try:
        lines = JsonLines(path)
    except OSError as error:
        raise ConfigError(f"handlers: {path} cannot be written: {error}") from error
    lock = threading.RLock()
    return lambda: _Shared(lines, lock), lines.close


class _Shared:
    """A handler of several runs: one call at a time, and not closed with a run.

    Args:
        lock: can be taken again by its holder, since a handler may record a metric of its own.
    """

    def __init__(self, handler: Handler, lock: Any) -> None:
        self._handler, self._lock = handler, lock
        self.__qualname__ = getattr(handler, "__qualname__", type(handler).__qualname__)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._handler(event)


def _nothing() -> None:
    """Some handlers have nothing to end."""
