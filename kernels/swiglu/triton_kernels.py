"""`swiglu` in Triton: one pass over flat memory each way, float32 in the registers."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    # No exponential overflows; a NaN comes back in by the product with the gate.
    return 1 / (1 + tl.exp(-tl.maximum(x, -87.0)))


@triton.jit
def _forward(gate_ptr, up_ptr, y_ptr, numel, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    gate = tl.load(gate_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    up = tl.load(up_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK]
    y = gate * _sigmoid(gate) * up
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def _backward(dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, numel, BLOCK: tl.constexpr):
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
