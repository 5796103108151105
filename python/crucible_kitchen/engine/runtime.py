"""`Runtime`: what the compiled closures of one run share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from crucible_kitchen.context import Context, MetricRecord, Metrics
from crucible_kitchen.errors import StageError, did_you_mean
from crucible_kitchen.ports import Ports

from .bridge import Bridge
from .events import Event
from .redact import Redactor, hide


class BorderError(TypeError):
    """A stage gave something else than it declares, or a key it needs is not there."""


class Runtime:
    """State and services of one run.

    Args:
        base: context of the run; stages get it with the state of their moment.
        ports: resolved adapters.
        emit: told of every event; None where nobody listens.
        seed: of the random numbers.
        bridge: runs async stages.
        redact: takes secrets out of texts.
    """

    __slots__ = (
        "attempts",
        "base",
        "bridge",
        "cancelled",
        "config",
        "emit",
        "metrics",
        "ports",
        "prefix",
        "redact",
        "seed",
        "state",
        "values",
    )

    def __init__(
        self,
        base: Context,
        ports: Ports,
        emit: Callable[[Event], None] | None,
        seed: int,
        bridge: Bridge,
        redact: Redactor,
    ) -> None:
        self.config: Mapping[str, Any] = base.config
        self.state: dict[str, Any] = {}
        # State and configuration together: no key is in both, so one look-up serves a read.
        self.values: dict[Any, Any] = dict(base.config)
        self.ports, self.emit, self.seed = ports, emit, seed
        self.bridge, self.redact = bridge, redact
        self.metrics = Metrics(self._recorded)
        self.base = base.replace(_recorder=self.metrics)
        self.prefix = ""
        self.cancelled = False
        self.attempts = 1

    def context(self, path: str, options: Mapping[str, Any] | None = None) -> Context:
        """The context of this moment for one execution."""
        return self.base.replace(
            _state=dict(self.state),
            _log=self.metrics.log,
            _stage=path,
            _options=dict(options or {}),
        )

    def logger(self, path: str) -> logging.Logger:
        return logging.getLogger("crucible_kitchen.run." + path.replace("/", "."))

    def check_cancelled(self) -> None:
        if self.cancelled:
            import asyncio

            raise asyncio.CancelledError("the run was cancelled")

    def put(self, key: str, value: Any) -> None:
        self.state[key] = self.values[key] = value

    def drop(self, *keys: str) -> None:
        for key in keys:
            self.state.pop(key, None)
            self.values.pop(key, None)

    def missing(self, key: str) -> BorderError:
        """The error for a key that is needed and not there."""
        known = [name for name in self.values if isinstance(name, str)]
        return BorderError(f"reads {key!r}, which nothing has written; {did_you_mean(key, known)}")

    def failure(self, path: str, source: str, error: BaseException) -> StageError:
        """The error of the run for the error of a stage; secrets are taken out of both."""
        self.redact.clean(error)
        if isinstance(error, BorderError):
            said = str(error)
        else:
            said = f"failed with {type(error).__name__}: {error}"
        tried = f" (attempt {self.attempts})" if self.attempts > 1 else ""
        self.attempts = 1
        where = f" ({source})" if source else ""
        return StageError(self.redact(f"{path}{where} {said}{tried}"), stage=path)

    def tell(self, kind: str, path: str, **fields: Any) -> None:
        """Emit an event, where somebody listens."""
        if self.emit is not None:
            self.emit(Event(kind, path, time.time(), **fields))

    def _recorded(self, record: MetricRecord) -> None:
        store = self.ports.get("metrics_store")
        if store is not None:
            run_id = self.base.get_metadata("run_id")
            name, value, step, _, metadata = record
            self.ports.metrics_store.record(run_id, name, value, step=step, metadata=metadata)
        if self.emit is not None:
            self.tell(
                "metric",
                self.prefix.rstrip("/"),
                name=record.name,
                value=record.value,
                step=record.step,
                metadata=hide(record.metadata),
            )
