"""Where a model computes, and in which dtype."""

from __future__ import annotations

import os

import torch

from crucible_kitchen.errors import PortError


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


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; ``auto`` is bfloat16 where the device computes in it natively."""
    if dtype == "auto":
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise PortError(f"local model: dtype must be auto, float32 or bfloat16, got {dtype!r}")
    return known[dtype]


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
