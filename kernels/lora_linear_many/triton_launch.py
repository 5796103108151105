"""`lora_linear_many` by the Triton kernels of `lora_linear`, one update after the other."""

from __future__ import annotations

from crucible_kitchen.kernels.common.launcher import Launcher
from crucible_kitchen.kernels.lora_linear import triton_launch as one

from .one_by_one import one_by_one
from .variant import Variant


def variant(launch: Launcher) -> Variant:
    """Started by `launch`."""
    return one_by_one(one.variant(launch))
