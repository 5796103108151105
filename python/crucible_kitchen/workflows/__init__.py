"""Workflows that come with the package, as values: edit, extend or run them as they are."""

from .dpo import dpo
from .sft import sft

__all__ = ["dpo", "sft"]
