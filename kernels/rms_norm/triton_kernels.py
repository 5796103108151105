"""`rms_norm` in Triton: a program a row; the gradient of the weight sums over rows in splits."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _forward(x_ptr, w_ptr, y_ptr, rstd_ptr, N, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        squares += x * x
    rstd = 1 / tl.sqrt(tl.sum(squares) / N + eps)
    tl.store(rstd_ptr + row, rstd)
    for first in range(0, N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        w = tl.load(w_ptr + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        tl.store(y_ptr + row * N + at, (x * rstd * w).to(y_ptr.dtype.element_ty), at < N)


@triton.jit
def _grad_x(dy_ptr, x_ptr, w_ptr, rstd_ptr, dx_ptr, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    rstd = tl.load(rstd_ptr + row)
    along = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        dy = tl.load(dy_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        x = tl.load(x_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        w = tl.load(w_ptr + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        along += w * dy * (x * rstd)
    mean = tl.sum(along) / N
    for first in range(0, N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        dy = tl.load(dy_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        x = tl.load(x_ptr + row * N + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        w = tl.load(w_ptr + at, at < N, other=0.0).to(tl.float32)  # [BLOCK]
        dx = rstd * (w * dy - x * rstd * mean)
        tl.store(dx_ptr + row * N + at, dx.to(dx_ptr.dtype.element_ty), at < N)


@triton.jit
def _grad_weight(
    dy_ptr, x_ptr, rstd_ptr, parts_ptr, M, N, rows, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """parts[split] = sum over the split's rows of dy x r: a part is [N], float32."""
    split = tl.program_id(1).to(tl.int64)
    cs = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for m in range(0, rows, BLOCK_M):
        ms = split * rows + m + tl.arange(0, BLOCK_M)
        inside = (ms[:, None] < M) & (cs[None, :] < N)
        at = ms[:, None] * N + cs[None, :]
        dy = tl.load(dy_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_C]
        x = tl.load(x_ptr + at, inside, other=0.0).to(tl.float32)  # [BLOCK_M, BLOCK_C]
        rstd = tl.load(rstd_ptr + ms, ms < M, other=0.0)  # [BLOCK_M]
        total += tl.sum(dy * (x * rstd[:, None]), axis=0)
    tl.store(parts_ptr + split * N + cs, total, cs < N)
