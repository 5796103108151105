"""TensorBoard's event files."""

from .metrics_store import MetricsStore

__all__ = ["MetricsStore"]
