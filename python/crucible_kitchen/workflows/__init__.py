"""Workflows that come with the package, as values: edit, extend or run them as they are."""

from .dpo import dpo
from .preview import preview_dpo, preview_reward, preview_sft
from .reward import reward
from .sft import sft

__all__ = ["dpo", "preview_dpo", "preview_reward", "preview_sft", "reward", "sft"]
