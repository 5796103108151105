"""Workflows that come with the package, as values: edit, extend or run them as they are."""

from .dpo import dpo
from .preview import preview_dpo, preview_sft
from .sft import sft

__all__ = ["dpo", "preview_dpo", "preview_sft", "sft"]
