"""Metrics as TensorBoard's event files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from crucible_kitchen import ports
from crucible_kitchen.adapters.foreign import library, speaking_our_errors
from crucible_kitchen.adapters.points import MARK, point_of, point_text
from crucible_kitchen.ports import metric_point, run_id_of
from crucible_kitchen.types import MetricPoint

_PROTO: Final = "tensorboard.compat.proto"


class MetricsStore(ports.MetricsStore):
    """One folder of event files a run, for ``tensorboard --logdir`` and for `read`.

    TensorBoard draws a value in float32 and knows no metadata, so the exact point goes along in the
    same event, where TensorBoard passes over it. A value without a step is drawn at step 0.

    Args:
        logdir: the folder, made when needed.
    """

    def __init__(self, logdir: str) -> None:
        self._logdir = Path(os.fspath(logdir))
        self._writers: dict[str, Any] = {}
        self._lock = threading.Lock()

    def record(
        self,
        run: ports.Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one event."""
        point = metric_point(run, name, value, step, metadata, time.time())
        event = _event(point)
        with self._lock, _errors(f"write {self._logdir}"):
            if point.run_id not in self._writers:
                writers = _library("tensorboard.summary.writer.event_file_writer")
                folder = self._folder(point.run_id)
                self._writers[point.run_id] = writers.EventFileWriter(str(folder))
            self._writers[point.run_id].add_event(event)

    def flush(self, run: ports.Run) -> None:
        """Return when the run's events are in its file."""
        run_id = run_id_of(run)
        with self._lock, _errors(f"flush {self._logdir}"):
            if run_id in self._writers:
                self._writers[run_id].flush()

    def read(self, run: ports.Run) -> list[MetricPoint]:
        """Everything recorded for the run; of foreign event files, their scalars."""
        run_id = run_id_of(run)
        self.flush(run_id)
        folder = self._folder(run_id)
        with _errors(f"read {folder}"):
            files = sorted(folder.glob("*tfevents*")) if folder.is_dir() else []
            return [point for file in files for point in _points(file, run_id)]

    def close(self) -> None:
        """Close the files; a later `record` begins another."""
        with self._lock, _errors(f"close {self._logdir}"):
            while self._writers:
                self._writers.popitem()[1].close()

    def _folder(self, run_id: str) -> Path:
        # A run's id may hold anything; quoted, dots still have a meaning.
        return self._logdir / quote(run_id, safe=" ").replace(".", "%2E")


def _event(point: MetricPoint) -> Any:
    events, summaries = _library(f"{_PROTO}.event_pb2"), _library(f"{_PROTO}.summary_pb2")
    metadata = summaries.SummaryMetadata()
    metadata.plugin_data.plugin_name = MARK
    metadata.plugin_data.content = point_text(point).encode()
    value = summaries.Summary.Value
    drawn = value(tag=point.name, simple_value=point.value)
    exact = value(tag=f"{MARK}/{point.name}", metadata=metadata)
    summary = summaries.Summary(value=[drawn, exact])
    return events.Event(wall_time=point.time, step=point.step or 0, summary=summary)


def _points(file: Path, run_id: str) -> Iterator[MetricPoint]:
    loaders = _library("tensorboard.backend.event_processing.event_file_loader")
    events = _library(f"{_PROTO}.event_pb2")
    for record in loaders.RawEventFileLoader(str(file)).Load():
        event = events.Event.FromString(record)
        ours = [
            value.metadata.plugin_data.content
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == MARK
        ]
        if ours:
            yield from (point_of(text, run_id, event.wall_time) for text in ours)
            continue
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield MetricPoint(
                    run_id, value.tag, value.simple_value, event.step, event.wall_time
                )


def _library(module: str) -> Any:
    return library(module, port="metrics_store", extra="tensorboard")


def _errors(doing: str) -> AbstractContextManager[None]:
    return speaking_our_errors("metrics_store", doing, _foreign)


def _foreign() -> tuple[type[Exception], ...]:
    stub = _library("tensorboard.compat.tensorflow_stub.errors")
    return (OSError, stub.OpError, _library("google.protobuf.message").Error)
