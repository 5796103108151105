"""The definition of `lora_linear_many`: that of `lora_linear`, one update after the other."""

from __future__ import annotations

from crucible_kitchen.kernels.lora_linear.reference import lora_linear

from .one_by_one import one_by_one

lora_linear_many = one_by_one(lora_linear)
