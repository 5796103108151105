"""MLflow: its tracking and its model registry."""

from .metrics_store import MetricsStore
from .model_registry import ModelRegistry

__all__ = ["MetricsStore", "ModelRegistry"]
