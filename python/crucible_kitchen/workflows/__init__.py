"""Workflows that come with the package, as values: edit, extend or run them as they are."""

from ._training import SHOWN
from .dpo import dpo, dpo_calibration
from .preview import preview_dpo, preview_reward, preview_sft
from .reward import reward, reward_calibration
from .sft import sft, sft_calibration

__all__ = [
    "SHOWN",
    "dpo",
    "dpo_calibration",
    "preview_dpo",
    "preview_reward",
    "preview_sft",
    "reward",
    "reward_calibration",
    "sft",
    "sft_calibration",
]
