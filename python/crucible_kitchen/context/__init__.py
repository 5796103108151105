"""What a stage can see: configuration, state, ports and metrics of one run, all immutable."""

from .metrics import MetricLog, MetricRecord, Metrics
from .run_context import Context, as_mapping
from .views import MissingKeyError, View

__all__ = [
    "Context",
    "MetricLog",
    "MetricRecord",
    "Metrics",
    "MissingKeyError",
    "View",
    "as_mapping",
]
