"""`Runtime`: what the compiled closures of one thread of a run share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crucible_kitchen.context import Context, MetricLog, MetricRecord, Metrics
from crucible_kitchen.errors import StageError, did_you_mean
from crucible_kitchen.ports import Ports

from .bridge import Bridge
from .events import Event
from .redact import Redactor, hide
from .strand import Strand

RESUMED = {"resumed": True}
"""Metadata of what is told again on resume, so that listeners know what they are in."""


class BorderError(TypeError):
    """A stage gave something else than it declares, or a key it needs is not there."""


class Locks:
    """Locks that a run and its forks share.

    Args:
        family: held while forks come, and while they are told to end.
        store: held while the metrics store records.
    """

    __slots__ = ("family", "store")

    def __init__(self) -> None:
        self.family, self.store = threading.Lock(), threading.Lock()


class Left(NamedTuple):
    """What a fork leaves behind.

    Args:
        state: what was written, and is still there.
        records: metrics, in order.
        metadata: of the context, where it changed.
    """

    state: dict[str, Any]
    records: list[MetricRecord]
    metadata: dict[str, Any]


class Runtime:
    """State and services of one run, or of one of its forks.

    A fork has a state of its own over that of its parent, which stands still while the fork runs.

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
        "constants",
        "emit",
        "forks",
        "locks",
        "metrics",
        "parent",
        "ports",
        "prefix",
        "redact",
        "seed",
        "state",
        "strand",
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
        # What closures look up under tuples: no key of a user is one.
        self.constants: dict[Any, Any] = {}
        self.ports, self.emit, self.seed = ports, emit, seed
        self.bridge, self.redact = bridge, redact
        self.metrics = Metrics(self._recorded)
        self.base = base.replace(_recorder=self.metrics)
        self.prefix = ""
        self.cancelled = False
        self.attempts = 1
        self.parent: Runtime | None = None
        self.forks: list[Runtime] = []
        self.locks = Locks()
        self.strand: Strand | None = None  # where the run keeps a journal

    def fork(self) -> Runtime:
        """A runtime with a state of its own, for closures that run in another thread or scope."""
        child = Runtime(self.base, self.ports, self.emit, self.seed, self.bridge, self.redact)
        child.parent, child.locks = self, self.locks
        if self.strand is not None:
            child.strand = self.strand.fork(child)
        with self.locks.family:
            child.cancelled = self.cancelled
            self.forks.append(child)
        return child

    def cancel(self, wanted: bool) -> None:
        """Have this runtime and its forks end at their next stage, or not."""
        with self.locks.family:
            self.cancelled = wanted
            forks = list(self.forks)
        for fork in forks:
            fork.cancel(wanted)

    def enter(self, prefix: str) -> None:
        """Begin a fork from its parent's state of this moment."""
        parent = self.parent
        assert parent is not None
        self.prefix, self.attempts = prefix, 1
        self.state.clear()
        self.values.clear()
        self.values.update(parent.values)
        self.values.update(self.constants)
        self.metrics.take()
        self.base = parent.base.replace(_recorder=self.metrics)

    def leave(self) -> Left:
        """What the fork has written and recorded since it began."""
        assert self.parent is not None
        before = dict(self.parent.base.metadata)
        now = dict(self.base.metadata)
        changed = {key: now[key] for key in now if key not in before or now[key] is not before[key]}
        return Left(dict(self.state), self.metrics.take(), changed)

    def adopt(self, left: Left) -> None:
        """Take over the metrics and the metadata of a fork; what it wrote is the caller's."""
        self.metrics.extend(left.records)
        if left.metadata:
            self.base = self.base.replace(_metadata={**self.base.metadata, **left.metadata})

    def everything(self) -> dict[str, Any]:
        """The whole state, that of the parent included."""
        if self.parent is None:
            return dict(self.state)
        return {**self.parent.everything(), **self.state}

    def _log(self) -> MetricLog:
        if self.parent is None:
            return self.metrics.log
        return MetricLog([*self.parent._log(), *self.metrics.log])

    def context(self, path: str, options: Mapping[str, Any] | None = None) -> Context:
        """The context of this moment for one execution."""
        return self.base.replace(
            _state=self.everything(),
            _log=self._log(),
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
        if self.strand is not None:
            self.strand.touched[key] = None

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
            if self.strand is not None and self.strand.target is not None:
                fields["metadata"] = {**(fields.get("metadata") or {}), **RESUMED}
            self.emit(Event(kind, path, time.time(), **fields))

    def _recorded(self, record: MetricRecord) -> None:
        if self.strand is not None and self.strand.target is not None:
            return  # it was recorded before the run stopped
        store = self.ports.get("metrics_store")
        if store is not None:
            run_id = self.base.get_metadata("run_id")
            name, value, step, _, metadata = record
            with self.locks.store:
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
