"""`Context`: everything that one run knows, at one moment."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from crucible_kitchen.ports import Ports, resolve

from .metrics import MetricLog, MetricRecord, Metrics
from .views import View


class _LazyPorts:
    """Ports resolved at first use and shared by all contexts that came from one another."""

    __slots__ = ("_lock", "_ports", "adapters")

    def __init__(self, adapters: Mapping[str, Any] | Ports, ports: Ports | None = None) -> None:
        self.adapters = {name: adapters[name] for name in adapters}
        self._ports = adapters if isinstance(adapters, Ports) else ports
        self._lock = threading.Lock()

    def get(self) -> Ports:
        with self._lock:
            if self._ports is None:
                self._ports = resolve(self.adapters)
            return self._ports


def as_mapping(config: object) -> dict[str, Any]:
    """A configuration, given as a mapping or as a pydantic model, as a new dict of its fields."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        wrong = [key for key in config if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"config: keys must be str, got {wrong[0]!r}")
        return dict(config)
    fields = getattr(type(config), "model_fields", None)
    if fields is None:
        raise TypeError(
            f"config: config must be a mapping or a pydantic model, got {type(config).__name__}"
        )
    return {name: getattr(config, name) for name in fields}


class Context:
    """Configuration, state, ports, metrics and metadata of one run; every change is a new context.

    Args:
        config: mapping or pydantic model.
        adapters: port name -> instance, class, or ``(class, {options})``.
        state: first values of the state.
        metadata: joined to ``run_id`` and ``started_at``.
        current_stage: id of the execution this context was made for.
        stage_options: options of that stage.
        metrics: where metrics are recorded besides this context.
        ports: adapters already resolved.
    """

    injected_as: ClassVar[str] = "context"
    __slots__ = (
        "_config",
        "_lazy_ports",
        "_log",
        "_metadata",
        "_options",
        "_recorder",
        "_stage",
        "_state",
    )
    _config: dict[str, Any]
    _lazy_ports: _LazyPorts
    _log: MetricLog
    _metadata: dict[str, Any]
    _options: dict[str, Any]
    _recorder: Metrics | None
    _stage: str | None
    _state: dict[str, Any]

    def __init__(
        self,
        config: object = None,
        adapters: Mapping[str, Any] | Ports | None = None,
        *,
        state: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        current_stage: str | None = None,
        stage_options: Mapping[str, Any] | None = None,
        metrics: Metrics | None = None,
        ports: Ports | None = None,
    ) -> None:
        started = time.time()
        own = {"run_id": f"run_{int(started)}_{uuid.uuid4().hex[:8]}", "started_at": started}
        self._set(
            _config=as_mapping(config),
            _lazy_ports=_LazyPorts({} if adapters is None else adapters, ports),
            _state=dict(state or {}),
            _metadata={**own, **(metadata or {})},
            _stage=current_stage,
            _options=dict(stage_options or {}),
            _recorder=metrics,
            _log=metrics.log if metrics is not None else MetricLog(),
        )

    def _set(self, **values: object) -> Context:
        for name, value in values.items():
            object.__setattr__(self, name, value)
        return self

    def replace(self, **changes: object) -> Context:
        """A context that differs in some fields; for the engine, which hands out one a stage."""
        new: Context = object.__new__(Context)
        for name in Context.__slots__:
            object.__setattr__(new, name, changes.get(name, getattr(self, name)))
        return new

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"Context: immutable; use put_state({name!r}, ...) and return the new context"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Context: immutable; {name!r} cannot be deleted")

    @property
    def config(self) -> View:
        """The configuration."""
        return View(self._config, "config")

    @property
    def state(self) -> View:
        """What stages have written."""
        return View(self._state, "state")

    @property
    def adapters(self) -> View:
        """The adapters as they were given."""
        return View(self._lazy_ports.adapters, "adapters")

    @property
    def metadata(self) -> View:
        """``run_id``, ``started_at`` and what was put beside them."""
        return View(self._metadata, "metadata")

    @property
    def metrics(self) -> MetricLog:
        """What has been recorded, in order."""
        return self._log

    @property
    def current_stage(self) -> str | None:
        """Id of the execution this context was made for."""
        return self._stage

    @property
    def stage_options(self) -> View:
        """Options of the stage this context was made for."""
        return View(self._options, "stage_options")

    @property
    def ports(self) -> Ports:
        """The adapters, resolved and typed; a port without adapter is a `PortError`."""
        return self._lazy_ports.get()

    def get_config(self, key: str, default: Any = None) -> Any:
        """A configuration value, or the default."""
        return self._config.get(key, default)

    def get_state(self, key: str, default: Any = None) -> Any:
        """A value of the state, or the default."""
        return self._state.get(key, default)

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """A metadata value, or the default."""
        return self._metadata.get(key, default)

    def get_adapter(self, port: str) -> Any:
        """The adapter of a port, made if it was given as a class; None where none was given."""
        return self.ports.get(port)

    def put_state(self, key: str, value: Any) -> Context:
        """A context with one more key in its state."""
        return self.merge_state({key: value})

    def merge_state(self, values: Mapping[str, Any]) -> Context:
        """A context with these keys in its state."""
        wrong = [key for key in values if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"merge_state: keys must be str, got {wrong[0]!r}")
        return self.replace(_state={**self._state, **values})

    def put_metadata(self, key: str, value: Any) -> Context:
        """A context with one more key in its metadata."""
        return self.replace(_metadata={**self._metadata, key: value})

    def record_metric(
        self,
        name: str,
        value: float,
        *,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Context:
        """A context with one more metric, which also reaches the `metrics_store` port.

        Args:
            name: of the metric.
            value: what was measured.
            step: of the training; where left out, ``step`` or ``global_step`` of the state.
            metadata: anything else worth keeping.
        """
        if step is None:
            step = self._state.get("step", self._state.get("global_step"))
        if self._recorder is not None:  # inside a run: the engine tells store and events
            record = self._recorder.record(name, value, step=step, metadata=metadata)
        else:
            record = MetricRecord(name, value, step, time.time(), metadata or {})
            store = self.get_adapter("metrics_store")
            if store is not None:
                store.record(self._metadata["run_id"], name, value, step=step, metadata=metadata)
        return self.replace(_log=self._log.append(record))

    def __repr__(self) -> str:
        run, where = self._metadata["run_id"], self._stage or "outside a stage"
        return f"<Context {run} {where}: config {list(self._config)}, state {list(self._state)}>"
