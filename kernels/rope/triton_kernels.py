"""`rope` in Triton: a program for each token and head, float32 in the registers."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .variant import Variant


@triton.jit
def _rotate_kernel(x_ptr, cos_ptr, sin_ptr, y_ptr, heads, half, sign, BLOCK: tl.constexpr):
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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    T, A, D = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dense = (t.contiguous() for t in (x, cos, sin))
    if x.numel():
        block = triton.next_power_of_2(D // 2)
        sign = -1.0 if back else 1.0
        _rotate_kernel[(T * A,)](*dense, y, A, D // 2, sign, BLOCK=block, num_warps=1)
    return y


rope = Variant(_rotate)
