"""Metrics as lines of JSON, appended to one file."""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import ports
from crucible_kitchen.adapters.disk import speaking_our_errors
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import metric_point, run_id_of
from crucible_kitchen.types import MetricPoint

_NAME: Final = "metrics.jsonl"


class MetricsStore(ports.MetricsStore):
    """Appends each value to ``metrics.jsonl`` at once; several processes may share the file.

    A line is ``{"run_id", "name", "value", "step", "time", "metadata"}``; NaN and the infinities,
    which JSON lacks, are the texts ``NaN``, ``Infinity`` and ``-Infinity``. A last line that was
    torn by a crash is ignored when read, and removed before the next one is written.

    Args:
        path: a file that ends in ``.jsonl``, or a folder for ``metrics.jsonl``; made when needed.
    """

    def __init__(self, path: str) -> None:
        given = Path(path)
        self._path = given if given.suffix == ".jsonl" else given / _NAME
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def record(
        self,
        run: ports.Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one value."""
        line = _line(metric_point(run, name, value, step, metadata, time.time()))
        with self._lock, speaking_our_errors("metrics_store", f"write {self._path}"):
            _append(self._opened(), line)

    def rewind(self, run: ports.Run, points: Sequence[MetricPoint]) -> None:
        """Keep the run's lines that say what `points` say, and have the others say it, too.

        Lines of other runs stay as they are.
        """
        run_id = run_id_of(run)
        with self._lock, speaking_our_errors("metrics_store", f"rewind {self._path}"):
            descriptor = self._opened()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                size = _whole_lines(descriptor)
                lines = os.pread(descriptor, size, 0).splitlines(keepends=True)
                wanted = _rewound(lines, self._path, run_id, points)
                same = _in_common(lines, wanted)
                os.ftruncate(descriptor, sum(map(len, lines[:same])))
                os.write(descriptor, b"".join(wanted[same:]))
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)

    def flush(self, run: ports.Run) -> None:
        """Return when the file is on the disk."""
        run_id_of(run)
        with self._lock, speaking_our_errors("metrics_store", f"flush {self._path}"):
            if self._descriptor is not None:
                os.fsync(self._descriptor)

    def read(self, run: ports.Run) -> list[MetricPoint]:
        """Everything recorded for the run, in the file's order."""
        run_id = run_id_of(run)
        with speaking_our_errors("metrics_store", f"read {self._path}"):
            text = self._path.read_bytes() if self._path.exists() else b""
        return [point for point in _points(text, self._path) if point.run_id == run_id]

    def close(self) -> None:
        """Close the file; a later `record` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o644)
        return self._descriptor


def _line(point: MetricPoint) -> bytes:
    try:
        return json.dumps(_plain(point.to_dict()), allow_nan=False).encode() + b"\n"
    except TypeError as error:
        raise TypeError(f"metrics_store: metadata must be plain JSON: {error}") from error


def _rewound(
    lines: Sequence[bytes], path: Path, run_id: str, points: Sequence[MetricPoint]
) -> list[bytes]:
    """The lines of a file in which a run is to have `points`: those that agree, and new ones."""
    kept, agreed = [], 0
    surplus = False
    for line, have in zip(lines, _points(b"".join(lines), path), strict=True):
        if have.run_id == run_id:
            surplus = surplus or agreed == len(points) or _told(have) != _told(points[agreed])
            if surplus:
                continue
            agreed += 1
        kept.append(line)
    return kept + [_line(point) for point in points[agreed:]]


def _in_common(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    """How many lines two files begin with in common."""
    for number, (one, other) in enumerate(zip(some, others, strict=False)):
        if one != other:
            return number
    return min(len(some), len(others))


def _told(point: MetricPoint) -> tuple[str, str, int | None]:
    return point.name, repr(float(point.value)), point.step  # NaN is not equal to itself


def _append(descriptor: int, line: bytes) -> None:
    """Write a whole line at the end, or nothing."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        end = _whole_lines(descriptor)
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _whole_lines(descriptor: int) -> int:
    """Cut off a torn last line; the file's size then."""
    size = end = os.fstat(descriptor).st_size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        # Step back over the torn line a block at a time.
        start = max(end - 4096, 0)
        end = start + os.pread(descriptor, end - start, start).rfind(b"\n") + 1
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def _points(text: bytes, path: Path) -> Iterator[MetricPoint]:
    # What follows the last line feed is empty, or a line that was torn.
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            fields = json.loads(line)
            yield MetricPoint.from_dict({**fields, "value": float(fields["value"])})
        except (ValueError, TypeError, KeyError) as error:
            raise PortError(f"metrics_store: {path}, line {number} is damaged: {error}") from error


def _plain(value: Any) -> Any:
    """`value` with texts for the numbers that JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
