"""How an optimizer keeps running means: in float32, in bfloat16, or in 8 bits with scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.adamw_step.eight_bit import dequantize, quantize

# The running means, and whether their elements may be negative.
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
# Of an element.
STATE_BITS = (8, 16, 32)
# Smaller tensors have 32 bits where others have 8: they save little, and biases and norms are the
# touchy ones.
_SMALLEST_IN_EIGHT_BITS = 4096


def bits_of(param: Tensor, state_bits: int) -> int:
    """In how many bits a parameter's running means are kept, where `state_bits` were asked for."""
    return 32 if state_bits == 8 and param.numel() < _SMALLEST_IN_EIGHT_BITS else state_bits


def scales_of(name: str) -> str:
    """Where the state has the scales of a running mean in 8 bits."""
    return f"{name}_scales"


def fresh(param: Tensor, bits: int) -> dict[str, Tensor]:
    """Running means of zeros, laid out in memory as the parameter is."""
    state: dict[str, Tensor] = {}
    for name in MOMENTS:
        zeros = torch.zeros_like(
            param, dtype=_dtype_of(param, bits), memory_format=torch.preserve_format
        )
        state |= _kept(param, name, zeros, bits)
    return state


def restored(param: Tensor, saved: Mapping[str, Any], bits: int) -> dict[str, Tensor]:
    """Copies, in these bits, of running means that may have been kept in others."""
    state: dict[str, Tensor] = {}
    for name, signed in MOMENTS.items():
        moment = saved[name].to(param.device, copy=True)
        if moment.dtype == torch.uint8:
            scales = saved[scales_of(name)].to(param.device, copy=True)
            if bits == 8 and moment.stride() == param.stride():
                state |= {name: moment, scales_of(name): scales}
                continue
            moment = dequantize(moment, scales, signed=signed)
        state |= _kept(param, name, moment.to(_dtype_of(param, bits)), bits)
    return state


def _kept(param: Tensor, name: str, moment: Tensor, bits: int) -> dict[str, Tensor]:
    if bits != 8:
        return {name: moment}
    # As the parameter lies in memory: the step walks both as they lie.
    laid = torch.empty_like(param, dtype=torch.float32).copy_(moment)
    codes, scales = quantize(laid, signed=MOMENTS[name])
    return {name: codes, scales_of(name): scales}


def _dtype_of(param: Tensor, bits: int) -> torch.dtype:
    """Of running means before they are put into 8 bits; float64 with a float64 parameter."""
    if bits == 16:
        return torch.bfloat16
    return torch.promote_types(param.dtype, torch.float32)
