"""`rope` in Triton: a program for each token and head, float32 in the registers."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rotate(x_ptr, cos_ptr, sin_ptr, y_ptr, heads, half, sign, BLOCK: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < half
    angle = head // heads * half + at
    cos = tl.load(cos_ptr + angle, inside, other=0.0)  # [BLOCK]
    sin = sign * tl.load(sin_ptr + angle, inside, other=0.0)  # [BLOCK]
    first = head * 2 * half + at
    x1 = tl.load(x_ptr + first, inside, other=0.0).to(tl.float32)  # [BLOCK]
    x2 = tl.load(x_ptr + first + half, inside, other=0.0).to(tl.float32)  # [BLOCK]
    y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    tl.store(y_ptr + first, y1.to(y_ptr.dtype.element_ty), inside)
    tl.store(y_ptr + first + half, y2.to(y_ptr.dtype.element_ty), inside)
