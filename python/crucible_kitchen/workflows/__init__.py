"""Workflows that come with the package, as values: edit, extend or run them as they are."""

from .sft import sft

__all__ = ["sft"]
