"""Weights & Biases."""

from .metrics_store import MetricsStore

__all__ = ["MetricsStore"]
