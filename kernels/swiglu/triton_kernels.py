"""`swiglu` in Triton: one pass over flat memory each way, float32 in the registers."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .variant import Variant

# Elements a program.
BLOCK = 1024


@triton.jit
def _sigmoid(x):
    # No exponential overflows; a NaN comes back in by the product with the gate.
    return 1 / (1 + tl.exp(-tl.maximum(x, -87.0)))


@triton.jit
def _forward_kernel(gate_ptr, up_ptr, y_ptr, numel, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    gate = tl.load(gate_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    up = tl.load(up_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    y = gate * _sigmoid(gate) * up
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _backward_kernel(dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, numel, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    dy = tl.load(dy_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    gate = tl.load(gate_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    up = tl.load(up_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    s = _sigmoid(gate)
    dup = dy * gate * s
    dgate = dy * up * s * (1 + gate * (1 - s))
    tl.store(dup_ptr + at, dup.to(dup_ptr.dtype.element_ty), inside)
    tl.store(dgate_ptr + at, dgate.to(dgate_ptr.dtype.element_ty), inside)


def _forward(gate: Tensor, up: Tensor) -> Tensor:
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    grid = (triton.cdiv(gate.numel(), BLOCK),)
    if gate.numel():
        _forward_kernel[grid](gate.contiguous(), up.contiguous(), y, gate.numel(), BLOCK=BLOCK)
    return y


def _backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    grid = (triton.cdiv(gate.numel(), BLOCK),)
    dense = (t.contiguous() for t in (dy, gate, up))
    if gate.numel():
        _backward_kernel[grid](*dense, dgate, dup, gate.numel(), BLOCK=BLOCK)
    return dgate, dup


swiglu = Variant(_forward, _backward)
