"""Metrics: one record, the log of a run, and what records into it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from crucible_kitchen.errors import did_you_mean

from .views import MissingKeyError


class MetricRecord(NamedTuple):
    """One recorded value.

    Args:
        name: of the metric, such as ``loss``.
        value: what was measured.
        step: of the training, None where the metric belongs to the whole run.
        time: seconds since the epoch.
        metadata: anything else worth keeping.
    """

    name: str
    value: float
    step: int | None
    time: float
    metadata: Mapping[str, Any]


class MetricLog:
    """Recorded metrics in the order they came; a value: appending gives a new log.

    Logs that grow from one another share one list, so that an append costs O(1).
    """

    __slots__ = ("_length", "_records")

    def __init__(
        self, records: list[MetricRecord] | None = None, length: int | None = None
    ) -> None:
        self._records = [] if records is None else records
        self._length = len(self._records) if length is None else length

    def append(self, record: MetricRecord) -> MetricLog:
        records, length = self._records, self._length
        if length == len(records):
            records.append(record)
        elif records[length] is not record:  # another log went on from here: part ways
            records = [*records[:length], record]
        return MetricLog(records, length + 1)

    def history(self, name: str) -> list[MetricRecord]:
        """Every record of one metric; an unknown name names the nearest."""
        found = [record for record in self if record.name == name]
        if not found:
            known = {record.name for record in self}
            raise MissingKeyError(
                f"metrics: {name!r} was never recorded; "
                f"{did_you_mean(name, known) or 'nothing was'}"
            )
        return found

    def latest(self, name: str) -> float:
        """The value recorded last."""
        return self.history(name)[-1].value

    def to_rows(self) -> list[dict[str, Any]]:
        """One plain dict a record, as for a data frame."""
        return [dict(record._asdict(), metadata=dict(record.metadata)) for record in self]

    def names(self) -> list[str]:
        """Names of the metrics, in the order of their first record."""
        return list(dict.fromkeys(record.name for record in self))

    def __iter__(self) -> Iterator[MetricRecord]:
        return iter(self._records[: self._length])

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<metrics: {len(self)} record(s) of {', '.join(self.names()) or 'nothing'}>"


class Metrics:
    """Records metrics into a run; a stage is given one by annotating a parameter with it.

    Args:
        on_record: told of every record, such as the metrics store and the events of the run.
    """

    injected_as: ClassVar[str] = "metrics"
    __slots__ = ("_lock", "_on_record", "_records")

    def __init__(self, on_record: Callable[[MetricRecord], None] | None = None) -> None:
        self._records: list[MetricRecord] = []
        self._on_record = on_record
        self._lock = threading.Lock()

    def record(
        self,
        name: str,
        value: float,
        *,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> MetricRecord:
        """Record one value."""
        record = MetricRecord(name, value, step, time.time(), metadata or {})
        with self._lock:
            self._records.append(record)
        if self._on_record is not None:
            self._on_record(record)
        return record

    def take(self) -> list[MetricRecord]:
        """What has been recorded until now; the log begins anew."""
        with self._lock:
            taken, self._records = self._records, []
        return taken

    def extend(self, records: Iterable[MetricRecord]) -> None:
        """Append what others have recorded, and told of."""
        with self._lock:
            self._records.extend(records)

    def since(self, start: int) -> list[MetricRecord]:
        """What has been recorded after the first `start` records."""
        return self._records[start:]

    def cut(self, length: int) -> None:
        """Forget what was recorded after the first `length` records."""
        with self._lock:
            del self._records[length:]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def log(self) -> MetricLog:
        """What has been recorded until now."""
        return MetricLog(self._records, len(self._records))
