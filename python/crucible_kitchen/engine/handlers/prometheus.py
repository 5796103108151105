"""`Prometheus`: what runs did and measured, for a server that scrapes or a file that it reads."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from crucible_kitchen.engine.events import Event

from ._optional import library

_INDEX: Final = re.compile(r"\[\d+\]")
# From a stage of no cost to an evaluation of an hour.
_SECONDS: Final = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)


class Prometheus:
    """Counts runs, stages, failed attempts and durations, and holds the newest of each metric.

    ``crucible_runs_total{workflow,status}``, ``crucible_stages_total{workflow,stage,status}`` and
    ``crucible_stage_seconds{workflow,stage}``, ``crucible_retries_total{workflow,stage}``,
    ``crucible_metric{workflow,name}``; ``status`` is ``ok`` or ``error``, ``stage`` a path without
    indices.

    Args:
        registry: of ``prometheus_client``; by default the one that its server shows.
        port: serve the registry on this port of the loopback, until `stop`.
        path: write the registry to this file at the end of each run, atomically, for the textfile
            collector of the node exporter.
    """

    def __init__(
        self,
        registry: Any = None,
        port: int | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self._client = library("prometheus_client", extra="telemetry")
        self._registry = self._client.REGISTRY if registry is None else registry
        self._path = path
        self._metrics = self._collectors()
        self._server: Any = None
        if port is not None:
            self._server, _ = self._client.start_http_server(port, "127.0.0.1", self._registry)

    def for_a_run(self) -> _OfARun:
        """Listens to one run, and adds to what this one counts."""
        return _OfARun(self._metrics, self._write)

    def stop(self) -> None:
        """Take the metrics out of the registry, and end the server."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        for collector in self._metrics.values():
            self._registry.unregister(collector)

    def _collectors(self) -> dict[str, Any]:
        client, registry = self._client, self._registry
        stage = ("workflow", "stage")
        return {
            "runs": client.Counter(
                "crucible_runs", "Runs that ended", ("workflow", "status"), registry=registry
            ),
            "stages": client.Counter(
                "crucible_stages", "Stages that ended", (*stage, "status"), registry=registry
            ),
            "seconds": client.Histogram(
                "crucible_stage_seconds",
                "How long stages took",
                stage,
                buckets=_SECONDS,
                registry=registry,
            ),
            "retries": client.Counter(
                "crucible_retries", "Attempts that failed", stage, registry=registry
            ),
            "metric": client.Gauge(
                "crucible_metric", "The newest value", ("workflow", "name"), registry=registry
            ),
        }

    def _write(self) -> None:
        if self._path is not None:
            self._client.write_to_textfile(os.fspath(self._path), self._registry)


class _OfARun:
    """Counts the events of one run, whose workflow its first event names."""

    def __init__(self, metrics: dict[str, Any], write: Any) -> None:
        self._metrics, self._write = metrics, write
        self._workflow = ""

    def __call__(self, event: Event) -> None:
        metrics, kind = self._metrics, event.kind
        status = "ok" if event.error is None else "error"
        if kind == "run.start":
            self._workflow = event.name or ""
        elif kind in ("run.stop", "run.error"):
            metrics["runs"].labels(self._workflow, status).inc()
            self._write()
        elif kind in ("stage.stop", "stage.error"):
            stage = _INDEX.sub("", event.path)
            metrics["stages"].labels(self._workflow, stage, status).inc()
            metrics["seconds"].labels(self._workflow, stage).observe(event.duration_s or 0.0)
        elif kind == "stage.retry":
            metrics["retries"].labels(self._workflow, _INDEX.sub("", event.path)).inc()
        elif kind == "metric":
            metrics["metric"].labels(self._workflow, event.name).set(event.value)
