"""Adapters made of adapters: whatever the port, one wraps another."""

from .by_name import ByNameDatasetStore
from .retrying import retrying
from .tape import recording, replaying

__all__ = ["ByNameDatasetStore", "recording", "replaying", "retrying"]
