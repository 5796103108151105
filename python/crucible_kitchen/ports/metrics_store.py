"""The `metrics_store` port: numbers of a run, kept beyond it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from crucible_kitchen.types import MetricPoint

from .base import Port


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


class MetricsStore(Port):
    """Keeps metrics. Every method takes a run's id or its `Context` (adapters: `run_id_of`)."""

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
