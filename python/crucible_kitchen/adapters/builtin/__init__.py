"""Data sets that are on every machine that runs Python."""

from .dataset_store import DatasetStore

__all__ = ["DatasetStore"]
