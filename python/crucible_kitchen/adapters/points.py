"""A metric as text, for stores whose own form cannot say all of it."""

from __future__ import annotations

import json

from crucible_kitchen.errors import PortError
from crucible_kitchen.types import MetricPoint

MARK = "crucible_kitchen"
"""Begins the names under which this package keeps what is its own in somebody else's store."""


def point_text(point: MetricPoint) -> str:
    """A point as JSON, which `point_of` reads; NaN and the infinities are kept.

    Raises:
        TypeError: its metadata is not plain JSON.
    """
    try:
        return json.dumps(
            {
                "name": point.name,
                "value": point.value,
                "step": point.step,
                "metadata": point.metadata,
            }
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"metrics_store: metadata must be plain JSON: {error}") from error


def point_of(text: str | bytes, run_id: str, time: float | None) -> MetricPoint:
    """The point that `point_text` wrote.

    Raises:
        PortError: it is damaged.
    """
    try:
        return MetricPoint.from_dict({**json.loads(text), "run_id": run_id, "time": time})
    except (ValueError, TypeError) as error:
        raise PortError(f"metrics_store: a point of run {run_id!r} is damaged: {error}") from error
