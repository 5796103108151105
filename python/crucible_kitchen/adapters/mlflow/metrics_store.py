"""Metrics as runs of an MLflow experiment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from crucible_kitchen import ports
from crucible_kitchen.adapters.points import MARK, point_of, point_text
from crucible_kitchen.ports import metric_point, run_id_of
from crucible_kitchen.types import MetricPoint

from .client import all_pages, client, errors, quoted, refusals

_PORT: Final = "metrics_store"
_RUN: Final = f"{MARK}.run_id"


class MetricsStore(ports.MetricsStore):
    """One MLflow run a run, found again by a tag with the run's id.

    MLflow knows no metadata, no value without a step, and on some backends no NaN: such a point is
    also kept whole, in a tag of its own. Times are whole milliseconds, and within a run no two are
    alike, so that the order of its points is known.

    Args:
        tracking_uri: server or folder; by default what ``MLFLOW_TRACKING_URI`` names.
        experiment: made when it is not there.
    """

    def __init__(
        self, tracking_uri: str | None = None, experiment: str = "crucible-kitchen"
    ) -> None:
        self._client = client(tracking_uri, _PORT)
        self._experiment = experiment
        self._runs: dict[str, str] = {}
        self._opened: set[str] = set()
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()

    def record(
        self,
        run: ports.Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Log one value, at once."""
        point = metric_point(run, name, value, step, metadata)
        text = point_text(point)
        with self._lock, errors(_PORT, f"record {name} of run {point.run_id}"):
            mlflow_id = self._found(point.run_id) or self._made(point.run_id)
            self._opened.add(mlflow_id)
            milliseconds = max(time.time_ns() // 10**6, self._last.get(mlflow_id, 0) + 1)
            self._last[mlflow_id] = milliseconds
            if step is None or point.metadata or not math.isfinite(point.value):
                self._client.set_tag(mlflow_id, _tag(name, milliseconds), text)
            self._client.log_metric(mlflow_id, name, point.value, milliseconds, point.step or 0)

    def flush(self, run: ports.Run) -> None:
        """Every value is logged when `record` returns; only the run is checked."""
        run_id_of(run)

    def read(self, run: ports.Run) -> list[MetricPoint]:
        """Everything recorded for the run, and what others logged to its MLflow run, by time."""
        run_id = run_id_of(run)
        with self._lock, errors(_PORT, f"read run {run_id}"):
            mlflow_id = self._found(run_id)
            if mlflow_id is None:
                return []
            data = self._client.get_run(mlflow_id).data
            logged = [
                metric
                for name in data.metrics
                for metric in self._client.get_metric_history(mlflow_id, name)
            ]
        logged.sort(key=lambda metric: metric.timestamp)
        return [_point(run_id, metric, data.tags) for metric in logged]

    def close(self) -> None:
        """Tell MLflow that nothing more comes for the runs that were recorded here."""
        with self._lock, errors(_PORT, "end its runs"):
            while self._opened:
                self._client.set_terminated(self._opened.pop())

    def _found(self, run_id: str) -> str | None:
        """The MLflow run of a run, None where there is none yet."""
        if run_id not in self._runs:
            first = self._first(run_id)
            if first is None:
                return None
            self._runs[run_id] = first
        return self._runs[run_id]

    def _first(self, run_id: str) -> str | None:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        runs = all_pages(
            self._client.search_runs,
            experiment_ids=[experiment.experiment_id],
            filter_string=f"tags.`{_RUN}` = {quoted(run_id)}",
        )
        return min(((run.info.start_time, run.info.run_id) for run in runs), default=(0, None))[1]

    def _made(self, run_id: str) -> str:
        made: str = self._client.create_run(
            self._made_experiment(), tags={_RUN: run_id}, run_name=run_id
        ).info.run_id
        # Another writer may have made one at the same time; both go on with the first.
        first = self._first(run_id) or made
        if first != made:
            self._client.delete_run(made)
        self._runs[run_id] = first
        return first

    def _made_experiment(self) -> str:
        known = self._client.get_experiment_by_name(self._experiment)
        if known is None:
            try:
                return str(self._client.create_experiment(self._experiment))
            except refusals(_PORT):
                known = self._client.get_experiment_by_name(self._experiment)
                if known is None:
                    raise
        return str(known.experiment_id)


def _tag(name: str, milliseconds: int) -> str:
    return f"{MARK}.{milliseconds}.{name}"


def _point(run_id: str, metric: Any, tags: Mapping[str, str]) -> MetricPoint:
    seconds = metric.timestamp / 1000
    whole = tags.get(_tag(metric.key, metric.timestamp))
    if whole is not None:
        return point_of(whole, run_id, seconds)
    return MetricPoint(run_id, metric.key, metric.value, metric.step, seconds)
