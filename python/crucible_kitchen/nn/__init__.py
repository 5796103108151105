"""Modules built from our ops: LoRA on the linears of any torch model, in PEFT's file format."""

from crucible_kitchen.nn.fused import fuse
from crucible_kitchen.nn.lora import (
    LoraConfig,
    apply_lora,
    load_lora_state_dict,
    lora_modules,
    lora_parameters,
    lora_state_dict,
    merge_lora,
    set_dropout_step,
    unmerge_lora,
)
from crucible_kitchen.nn.lora_linear import LoraLinear
from crucible_kitchen.nn.peft_format import load_lora, save_lora
from crucible_kitchen.nn.saving import atomic_folder

__all__ = [
    "LoraConfig",
    "LoraLinear",
    "apply_lora",
    "atomic_folder",
    "fuse",
    "load_lora",
    "load_lora_state_dict",
    "lora_modules",
    "lora_parameters",
    "lora_state_dict",
    "merge_lora",
    "save_lora",
    "set_dropout_step",
    "unmerge_lora",
]
