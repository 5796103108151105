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
    merged_state_dict,
    set_dropout_step,
    unmerge_lora,
)
from crucible_kitchen.nn.lora_linear import LoraLinear, sharing_rows
from crucible_kitchen.nn.peft_format import SavedLora, load_lora, save_lora, saved_lora
from crucible_kitchen.nn.saving import atomic_folder
from crucible_kitchen.nn.scalar_head import (
    HEAD,
    ScalarHead,
    add_scalar_head,
    scalar_head,
    trained_parameters,
    trained_state_dict,
)

__all__ = [
    "HEAD",
    "LoraConfig",
    "LoraLinear",
    "SavedLora",
    "ScalarHead",
    "add_scalar_head",
    "apply_lora",
    "atomic_folder",
    "fuse",
    "load_lora",
    "load_lora_state_dict",
    "lora_modules",
    "lora_parameters",
    "lora_state_dict",
    "merge_lora",
    "merged_state_dict",
    "save_lora",
    "saved_lora",
    "scalar_head",
    "set_dropout_step",
    "sharing_rows",
    "trained_parameters",
    "trained_state_dict",
    "unmerge_lora",
]
