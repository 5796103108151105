"""The Hugging Face hub."""

from .dataset_store import DatasetStore
from .hub_client import HubClient

__all__ = ["DatasetStore", "HubClient"]
