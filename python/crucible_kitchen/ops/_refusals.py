"""Reasons to refuse that the kernels of several ops share."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch


@cache
def _triton_interpreted() -> bool | None:
    """Whether Triton's interpreter is on, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    # Triton reads it once, when a kernel is decorated; so do we.
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def triton_refuses(tensor: torch.Tensor) -> str | None:
    """Why Triton cannot run on this tensor's device and dtype here, or None."""
    interpreted = _triton_interpreted()
    if interpreted is None:
        return "triton is not installed"
    if interpreted and tensor.dtype == torch.bfloat16:
        return "Triton's interpreter does not support bfloat16"
    if not interpreted and tensor.device.type != "cuda":
        return f"the tensors are on {tensor.device.type}; Triton needs a GPU"
    return None
