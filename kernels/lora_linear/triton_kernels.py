"""`lora_linear` on tensor cores: the low-rank update rides in the main loop of the base product.

Forward and the gradient in x are one kernel, y = x P + scale (x Q) Z, with two sets of strides:

    forward     x = x,   P = W^T,  Q = A^T,  Z = B
    backward    x = dy,  P = W,    Q = B,    Z = A      (and x Q = dy B, which dA needs)

Each step of the loop multiplies one tile of x with P and with Q, so x is read once and the rank-R
product never leaves the registers of a tile before it is added. The gradients of A and B are one
kernel too: a tall sum over tokens, split to fill the device and added up in a fixed order.
"""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from crucible_kitchen.kernels.common.triton_hash import mix


@triton.jit
def _seen(rows, columns, seed_key, threshold):
    """The dropout mask of a tile, [rows, columns]: what the update sees of x (common/hash.h)."""
    row = mix(rows.to(tl.uint32) ^ seed_key.to(tl.uint32))
    return mix(row[:, None] ^ columns.to(tl.uint32)[None, :]) >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=["seed_key", "threshold"])
def _multiply(
    x_ptr, p_ptr, q_ptr, z_ptr, bias_ptr, y_ptr, xq_ptr,
    M, N, K, R, scale, seed_key, threshold,
    stride_xm, stride_pk, stride_pn, stride_qk, stride_qr, stride_zr, stride_zn,
    BIAS: tl.constexpr, DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of y = x P + scale (x Q) Z + bias; the first column of tiles also writes x Q.

    DROP is "x" where Q sees a masked x, "y" where the mask is on what Z adds, or "none".
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid_m, pid_n = tl.swizzle2d(
        tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n, tiles_m, tiles_n, 8
    )
    ms = pid_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    ns = pid_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    rs = tl.arange(0, BLOCK_R).to(tl.int64)
    row, column, rank = ms < M, ns < N, rs < R

    y = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    xq = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        ks = (k + tl.arange(0, BLOCK_K)).to(tl.int64)
        inside = ks < K
        x = tl.load(
            x_ptr + ms[:, None] * stride_xm + ks[None, :],
            row[:, None] & inside[None, :],
            other=0.0,
        )  # [BLOCK_M, BLOCK_K]
        p = tl.load(
            p_ptr + ks[:, None] * stride_pk + ns[None, :] * stride_pn,
            inside[:, None] & column[None, :],
            other=0.0,
        )  # [BLOCK_K, BLOCK_N]
        q = tl.load(
            q_ptr + ks[:, None] * stride_qk + rs[None, :] * stride_qr,
            inside[:, None] & rank[None, :],
            other=0.0,
        )  # [BLOCK_K, BLOCK_R]
        y = tl.dot(x, p, y, input_precision=PRECISION)
        if DROP == "x":
            x = tl.where(_seen(ms, ks, seed_key, threshold), x, 0.0)
        xq = tl.dot(x, q, xq, input_precision=PRECISION)

    z = tl.load(
        z_ptr + rs[:, None] * stride_zr + ns[None, :] * stride_zn,
        rank[:, None] & column[None, :],
        other=0.0,
    )  # [BLOCK_R, BLOCK_N]
    if DROP == "y":
        added = tl.dot((scale * xq).to(z.dtype), z, input_precision=PRECISION)
        y += tl.where(_seen(ms, ns, seed_key, threshold), added, 0.0)
    else:
        y = tl.dot((scale * xq).to(z.dtype), z, y, input_precision=PRECISION)
    if BIAS:
        y += tl.load(bias_ptr + ns, column, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y_ptr + ms[:, None] * N + ns[None, :],
        y.to(y_ptr.dtype.element_ty),
        row[:, None] & column[None, :],
    )
    if pid_n == 0:
        tl.store(
            xq_ptr + ms[:, None] * R + rs[None, :],
            xq.to(xq_ptr.dtype.element_ty),
            row[:, None] & rank[None, :],
        )


@triton.jit(do_not_specialize=["seed_key", "threshold"])
def _rank_gradient(
    x_ptr, s_ptr, parts_ptr,
    M, C, R, scale, tokens, seed_key, threshold,
    stride_xm, stride_part, stride_c, stride_r,
    DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """parts[split] = scale x^T s over the split's tokens: x [M, C], s [M, R], a part [C, R]."""
    split = tl.program_id(1).to(tl.int64)
    cs = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    rs = tl.arange(0, BLOCK_R).to(tl.int64)
    column, rank = cs < C, rs < R
    first = split * tokens
    total = tl.zeros((BLOCK_C, BLOCK_R), dtype=tl.float32)
    for m in range(0, tokens, BLOCK_M):
        ms = first + m + tl.arange(0, BLOCK_M)
        row = (ms < M) & (ms < first + tokens)
        x = tl.load(
            x_ptr + ms[None, :] * stride_xm + cs[:, None],
            row[None, :] & column[:, None],
            other=0.0,
        )  # [BLOCK_C, BLOCK_M]
        if DROP:
            x = tl.where(tl.trans(_seen(ms, cs, seed_key, threshold)), x, 0.0)
        s = tl.load(
            s_ptr + ms[:, None] * R + rs[None, :], row[:, None] & rank[None, :], other=0.0
        )  # [BLOCK_M, BLOCK_R]
        total = tl.dot(x, s, total, input_precision=PRECISION)
    tl.store(
        parts_ptr + split * stride_part + cs[:, None] * stride_c + rs[None, :] * stride_r,
        scale * total,
        column[:, None] & rank[None, :],
    )
