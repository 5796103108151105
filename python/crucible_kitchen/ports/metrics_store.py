"""The `metrics_store` port: numbers of a run, kept beyond it."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from .base import Port

if TYPE_CHECKING:
    from crucible_kitchen.types import MetricPoint


@runtime_checkable
class HasMetadata(Protocol):
    """A run's context, as far as a metrics store is concerned."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Holds ``run_id``."""
        ...


Run = str | HasMetadata
"""A run's id, or its context."""


def run_id_of(run: Run) -> str:
    """The id of a run, from its context or as given.

    Raises:
        TypeError: it is neither an id nor a context that has one.
    """
    run_id = run if isinstance(run, str) else None
    if run_id is None and isinstance(run, HasMetadata):
        run_id = run.metadata.get("run_id")
    if not isinstance(run_id, str) or not run_id:
        raise TypeError(f"metrics_store: run must be a run id or a Context, got {run!r}")
    return run_id


def metric_point(
    run: Run,
    name: str,
    value: float,
    step: int | None,
    metadata: Mapping[str, Any] | None,
    time: float | None = None,
) -> MetricPoint:
    """Arguments of `record`, checked, as the point to keep.

    Raises:
        TypeError: no run, a name that is not text, a value that is not a number, or a step that is
            not a whole number.
    """
    from crucible_kitchen.types import MetricPoint  # here: an import of the ports loads no numpy

    if not isinstance(name, str) or not name:
        raise TypeError(f"metrics_store: name must be text, not empty, got {name!r}")
    try:
        # float() reads text too, but a number that came as text is a mistake somewhere else.
        number = float(None if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise TypeError(f"metrics_store: {name} must be a number, got {value!r}") from None
    try:
        at = None if step is None else operator.index(step)
    except TypeError:
        raise TypeError(f"metrics_store: step must be a whole number, got {step!r}") from None
    return MetricPoint(run_id_of(run), name, number, at, time, dict(metadata or {}))


class MetricsStore(Port):
    """Keeps metrics of runs; every method takes a run's id or its `Context`."""

    name: ClassVar[str] = "metrics_store"
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def record(
        self,
        run: Run,
        name: str,
        value: float,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one value; NaN and infinities are values too.

        Args:
            name: such as ``loss``.
            step: where in the run; None for a value of the whole run.
            metadata: anything JSON can hold.
        Raises:
            TypeError: the value is not a number.
            PortError: it cannot be kept.
        """

    def rewind(self, run: Run, points: Sequence[MetricPoint]) -> None:
        """Have `points`, in their order, as what is recorded for the run, which is taken up again.

        What a crash has lost is recorded again. Points beyond those stay where a store cannot take
        back what it was given, as this implementation cannot: they then come twice.
        """
        self.flush(run)
        have = [(point.name, point.value, point.step) for point in self.read(run)]
        same = 0
        for (name, value, step), wanted in zip(have, points, strict=False):
            # repr, since NaN is not equal to itself
            if (name, repr(value), step) != (wanted.name, repr(wanted.value), wanted.step):
                break
            same += 1
        for point in points[same:] if same == len(have) else ():
            self.record(run, point.name, point.value, step=point.step, metadata=point.metadata)

    @abstractmethod
    def flush(self, run: Run) -> None:
        """Return when everything recorded for the run is safe."""

    @abstractmethod
    def read(self, run: Run) -> list[MetricPoint]:
        """Everything recorded for the run, in that order; nothing for an unknown run."""

    def get_history(
        self,
        run: Run,
        name: str,
        step_min: int | None = None,
        step_max: int | None = None,
        limit: int | None = None,
    ) -> list[MetricPoint]:
        """One metric's points by rising step, in recorded order where steps are equal.

        Args:
            step_min, step_max: keep steps from the one to the other, both included.
            limit: keep only the last so many of those.
        """
        points = [point for point in self.read(run) if point.name == name]
        if step_min is not None:
            points = [p for p in points if p.step is not None and p.step >= step_min]
        if step_max is not None:
            points = [p for p in points if p.step is not None and p.step <= step_max]
        points.sort(key=lambda point: -1 if point.step is None else point.step)
        return points if limit is None else points[max(len(points) - limit, 0) :]
