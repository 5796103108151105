"""Adapters that keep things in files: data sets, blobs, metrics and models."""

from .blob_store import BlobStore
from .dataset_store import DatasetStore
from .metrics_store import MetricsStore
from .model_registry import ModelRegistry

__all__ = ["BlobStore", "DatasetStore", "MetricsStore", "ModelRegistry"]
