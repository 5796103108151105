"""The Triton kernels of `lora_linear` as a variant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import triton_kernels
from .variant import NO_DROP, Drop, Forward, Gradients, Variant


def _forward(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
    drop: Drop = NO_DROP,
) -> Forward:
    dense = None if bias is None else bias.contiguous()  # the kernel reads it without a stride
    y, xa = triton_kernels.forward(x, weight, lora_a, lora_b, scale, dense, drop)
    return Forward(y, xa.to(torch.float32))


def _backward(
    dy: Tensor,
    x: Tensor | None,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    xa: Tensor,
    wanted: Sequence[bool],
    drop: Drop = NO_DROP,
) -> Gradients:
    dx = da = db = dyb = None
    if wanted[0]:
        dx, dyb = triton_kernels.grad_x(dy, weight, lora_a, lora_b, scale, drop)
    if wanted[1] and x is not None:
        if dyb is None:
            dyb = dy @ lora_b.to(dy.dtype)
        da = triton_kernels.grad_a(x, dyb, scale, lora_a.dtype, drop)
    if wanted[2]:
        db = triton_kernels.grad_b(dy, xa, scale, lora_b.dtype)
    return Gradients(dx, da, db)


lora_linear = Variant(_forward, _backward)
