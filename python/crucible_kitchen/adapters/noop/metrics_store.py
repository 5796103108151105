"""Metrics in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.ports import metric_point, run_id_of
from crucible_kitchen.types import MetricPoint


class MetricsStore(ports.MetricsStore):
    """Keeps metrics for as long as the instance lives; it keeps no time."""

    def __init__(self) -> None:
        self._points: dict[str, list[MetricPoint]] = {}
        self._lock = threading.Lock()

    def record(
        self,
        run: ports.Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one value."""
        point = metric_point(run, name, value, step, metadata)
        with self._lock:
            self._points.setdefault(point.run_id, []).append(point)

    def flush(self, run: ports.Run) -> None:
        """Memory is as safe as it gets; only the run is checked."""
        run_id_of(run)

    def read(self, run: ports.Run) -> list[MetricPoint]:
        """Everything recorded for the run, in that order."""
        with self._lock:
            return list(self._points.get(run_id_of(run), ()))
