"""`Runtime`: what the compiled closures of one thread of a run share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from crucible_kitchen.context import Context, MetricLog, MetricRecord, Metrics
from crucible_kitchen.errors import StageError, did_you_mean
from crucible_kitchen.graph.facts import Facts
from crucible_kitchen.ports import Ports

from .bridge import Bridge
from .events import Event, Handler
from .redact import Redactor, hide
from .shared import Left, Locks, Picture
from .strand import Strand

RESUMED = {"resumed": True}
"""Metadata of what is told again on resume, so that listeners know what they are in."""


class BorderError(TypeError):
    """A stage gave something else than it declares, or a key it needs is not there."""


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
        facts: of the workflow.
        width: most stages that run at once; None for as many as it pays.
        parent: of a fork; see `fork`.
    """

    __slots__ = (
        "attempts",
        "base",
        "bridge",
        "cancelled",
        "checked",
        "config",
        "earlier",
        "emit",
        "facts",
        "forks",
        "held",
        "hides",
        "interrupt",
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
        "width",
    )

    def __init__(
        self,
        base: Context,
        ports: Ports,
        emit: Handler | None,
        seed: int,
        bridge: Bridge,
        redact: Redactor,
        facts: Facts,
        width: int | None = None,
        parent: Runtime | None = None,
    ) -> None:
        self.state: dict[str, Any] = {}
        if parent is None:
            self.config: Mapping[str, Any] = base.config
            # State and configuration together: no key is in both, so one look-up serves a read.
            self.values: dict[str, Any] = dict(base.config)
            self.locks = Locks()
        else:  # the values come when it begins
            self.config, self.values, self.locks = parent.config, {}, parent.locks
        self.ports, self.emit, self.seed = ports, emit, seed
        self.bridge, self.redact, self.facts, self.width = bridge, redact, facts, width
        self.metrics = Metrics(self._recorded)
        self.base = base
        self.prefix = ""
        self.cancelled = False
        self.checked = False  # whether stages are watched for changes of what they read
        self.attempts = 1
        self.parent = parent
        self.hides: tuple[str, ...] = ()  # beginnings of keys of the parent that it does not see
        self.earlier: MetricLog | None = None
        # For the store, until `let_go`: what stands before it in the text is not over yet.
        self.held: list[MetricRecord] | None = None
        self.interrupt: Callable[[], None] | None = None
        self.forks: list[Runtime] = []
        self.strand: Strand | None = None  # where the run keeps a journal

    def fork(self) -> Runtime:
        """A runtime with a state of its own, for closures that run in another thread or scope."""
        emit, services = self.locks.emit or self.emit, (self.bridge, self.redact, self.facts)
        child = Runtime(self.base, self.ports, emit, self.seed, *services, self.width, self)
        child.checked = self.checked
        if self.strand is not None:
            child.strand = self.strand.fork(child)
        with self.locks.family:
            child.cancelled = self.cancelled
            self.forks.append(child)
        return child

    def cancel(self, wanted: bool) -> None:
        """Have this runtime and its forks end at their next stage, or not.

        What can be interrupted ends at once.
        """
        with self.locks.family:
            self.cancelled = wanted
            forks = list(self.forks)
            if wanted and self.interrupt is not None:
                self.interrupt()
        for fork in forks:
            fork.cancel(wanted)

    def wait(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine to its end; `cancel` ends it early.

        Raises:
            TimeoutError: it took more than `timeout` seconds.
        """
        call = self.bridge.begin(coroutine, timeout)
        with self.interruptible(call.cancel):
            return call.result()

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Have `cancel` call `interrupt` while the block runs."""
        with self.locks.family:
            self.interrupt = interrupt
            if self.cancelled:
                interrupt()
        try:
            yield
        finally:
            self.interrupt = None

    def picture(self, with_log: bool = False) -> Picture:
        """The state of this moment."""
        log = self._log() if with_log else None
        return Picture(self.everything(), dict(self.values), self.base, log)

    def look_at(self, picture: Picture, prefix: str) -> None:
        """Begin a fork from a state that has passed; its parent may go on meanwhile."""
        self.parent = None
        self.prefix, self.attempts = prefix, 1
        self.state.clear()
        self.state.update(picture.state)
        self.values.clear()
        self.values.update(picture.values)
        self.earlier = picture.log
        self.base = picture.base

    def enter(self, prefix: str) -> None:
        """Begin a fork from its parent's state of this moment."""
        parent = self.parent
        assert parent is not None
        self.prefix, self.attempts = prefix, 1
        self.state.clear()
        self.values.clear()
        self.values.update(self._seen(parent.values))
        self.metrics.take()
        self.base = parent.base

    def leave(self) -> Left:
        """What the fork has written and recorded since it began."""
        assert self.parent is not None
        before, now = self.parent.base._metadata, self.base._metadata
        changed = {}
        if now is not before:
            changed = {k: v for k, v in now.items() if k not in before or v is not before[k]}
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
        return {**self._seen(self.parent.everything()), **self.state}

    def _seen(self, outside: dict[str, Any]) -> dict[str, Any]:
        if not self.hides:
            return outside
        return {k: v for k, v in outside.items() if not str(k).startswith(self.hides)}

    def _log(self) -> MetricLog:
        before = self.earlier if self.parent is None else self.parent._log()
        return self.metrics.log if before is None else MetricLog([*before, *self.metrics.log])

    def context(self, path: str, options: Mapping[str, Any] | None = None) -> Context:
        """The context of this moment for one execution."""
        return self.base.replace(
            _state=self.everything(),
            _log=self._log(),
            _stage=path,
            _options=dict(options or {}),
            _recorder=self.metrics,
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
        if "metrics_store" in self.ports:
            with self.locks.store:
                self._store(record)
        if self.emit is not None:
            self.tell(
                "metric",
                self.prefix.rstrip("/"),
                name=record.name,
                value=record.value,
                step=record.step,
                metadata=hide(record.metadata),
            )

    def _store(self, record: MetricRecord) -> None:
        """Have the metrics store keep a metric, when its turn has come; holds `Locks.store`."""
        if self.held is not None:
            self.held.append(record)
        elif self.parent is not None:
            self.parent._store(record)
        else:
            run_id = self.base.get_metadata("run_id")
            name, value, step, _, metadata = record
            self.ports.metrics_store.record(run_id, name, value, step=step, metadata=metadata)

    def let_go(self) -> None:
        """Hand on what was held back, and what comes from now on; holds `Locks.store`."""
        held, self.held = self.held or (), None
        for record in held:
            self._store(record)
