"""Where a model computes, and in which dtype."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoConfig

from crucible_kitchen.errors import PortError
from crucible_kitchen.ops import _frozen_linear


def resolve_device(device: str) -> torch.device:
    """The device of that name; ``auto`` is cuda where there is one, else the CPU."""
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # `torchrun` numbers the processes of a machine, one a GPU.
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise PortError(f"local model: device must be auto, cpu or cuda, got {device!r}") from error


def resolve_dtype(dtype: str, device: torch.device, folder: str | os.PathLike[str]) -> torch.dtype:
    """The dtype of that name, for the model in a folder.

    ``auto`` is bfloat16 where the device computes in it natively, and on processors whose kernels
    multiply it by integers, unless the model has experts: torch multiplies by their weights.

    Raises:
        PortError: there is no such dtype, or the model's ``config.json`` cannot be read.
    """
    if dtype == "auto":
        lower = _computes_bfloat16(device) or (
            device.type == "cpu" and _frozen_linear.PAYS and not _has_experts(folder)
        )
        return torch.bfloat16 if lower else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise PortError(f"local model: dtype must be auto, float32 or bfloat16, got {dtype!r}")
    return known[dtype]


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _has_experts(folder: str | os.PathLike[str]) -> bool:
    """By its configuration, which says how many: ``num_local_experts``, ``n_routed_experts``..."""
    try:
        config: Any = AutoConfig.from_pretrained(os.fspath(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PortError(f"local model: could not load model {folder}: {error}") from error
    return any(
        "experts" in name and isinstance(count, int) and count > 1
        for name, count in config.get_text_config().to_dict().items()
    )
