"""`lora_linear_many` by the Triton kernels of `lora_linear`, one update after the other."""

from __future__ import annotations

from crucible_kitchen.kernels.lora_linear.triton_launch import lora_linear

from .one_by_one import one_by_one

lora_linear_many = one_by_one(lora_linear)
