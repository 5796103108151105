"""Adapters made of adapters: whatever the port, one wraps another."""

from .retrying import retrying
from .tape import recording, replaying

__all__ = ["recording", "replaying", "retrying"]
