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


@triton.jit
def product(
    x_ptr, p_ptr, q_ptr, z_ptr,
    ms, row, ns, column, rows_of_mask,
    K, R, scale, seed_key, threshold,
    stride_xm, stride_pk, stride_pn, stride_qk, stride_qr, stride_zr, stride_zn,
    DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """x P + scale (x Q) Z, and x Q, of rows ms and columns ns; row and column tell which exist.

    DROP is "x" where Q sees a masked x, "y" where the mask is on what Z adds, or "none".
    """
    rs = tl.arange(0, BLOCK_R).to(tl.int64)
    rank = rs < R
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
            x = tl.where(_seen(rows_of_mask, ks, seed_key, threshold), x, 0.0)
        xq = tl.dot(x, q, xq, input_precision=PRECISION)

    z = tl.load(
        z_ptr + rs[:, None] * stride_zr + ns[None, :] * stride_zn,
        rank[:, None] & column[None, :],
        other=0.0,
    )  # [BLOCK_R, BLOCK_N]
    if DROP == "y":
        added = tl.dot((scale * xq).to(z.dtype), z, input_precision=PRECISION)
        y += tl.where(_seen(rows_of_mask, ns, seed_key, threshold), added, 0.0)
    else:
        y = tl.dot((scale * xq).to(z.dtype), z, y, input_precision=PRECISION)
    return y, xq


@triton.jit
def store(pointer, values, ms, row, columns, exist, WIDTH):
    """Values [rows, columns] into a matrix of rows of WIDTH."""
    tl.store(
        pointer + ms[:, None] * WIDTH + columns[None, :],
        values.to(pointer.dtype.element_ty),
        row[:, None] & exist[None, :],
    )


@triton.jit(do_not_specialize=["seed_key", "threshold"])
def _multiply(
    x_ptr, p_ptr, q_ptr, z_ptr, bias_ptr, y_ptr, xq_ptr,
    M, N, K, R, scale, seed_key, threshold,
    stride_xm, stride_pk, stride_pn, stride_qk, stride_qr, stride_zr, stride_zn,
    BIAS: tl.constexpr, DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of y = x P + scale (x Q) Z + bias; the first column of tiles also writes x Q."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid_m, pid_n = tl.swizzle2d(
        tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n, tiles_m, tiles_n, 8
    )
    ms = pid_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    ns = pid_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row, column = ms < M, ns < N
    y, xq = product(
        x_ptr, p_ptr, q_ptr, z_ptr,
        ms, row, ns, column, ms,
        K, R, scale, seed_key, threshold,
        stride_xm, stride_pk, stride_pn, stride_qk, stride_qr, stride_zr, stride_zn,
        DROP, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_R, PRECISION,
    )  # fmt: skip
    if BIAS:
        y += tl.load(bias_ptr + ns, column, other=0.0).to(tl.float32)[None, :]
    store(y_ptr, y, ms, row, ns, column, N)
    if pid_n == 0:
        rs = tl.arange(0, BLOCK_R).to(tl.int64)
        store(xq_ptr, xq, ms, row, rs, rs < R, R)


@triton.jit
def rank_sum(
    x_ptr, s_ptr,
    first, length, first_of_mask,
    cs, column, R, seed_key, threshold, stride_xm,
    DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """x^T s over `length` rows from the first: x [M, C], s [M, R], the sum [BLOCK_C, BLOCK_R]."""
    rs = tl.arange(0, BLOCK_R).to(tl.int64)
    rank = rs < R
    total = tl.zeros((BLOCK_C, BLOCK_R), dtype=tl.float32)
    for m in range(0, length, BLOCK_M):
        ms = first + m + tl.arange(0, BLOCK_M)
        row = ms < first + length
        x = tl.load(
            x_ptr + ms[None, :] * stride_xm + cs[:, None],
            row[None, :] & column[:, None],
            other=0.0,
        )  # [BLOCK_C, BLOCK_M]
        if DROP:
            x = tl.where(tl.trans(_seen(ms - first_of_mask, cs, seed_key, threshold)), x, 0.0)
        s = tl.load(
            s_ptr + ms[:, None] * R + rs[None, :], row[:, None] & rank[None, :], other=0.0
        )  # [BLOCK_M, BLOCK_R]
        total = tl.dot(x, s, total, input_precision=PRECISION)
    return total


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
    total = rank_sum(
        x_ptr, s_ptr,
        first, tl.minimum(M - first, tokens).to(tl.int32), 0,
        cs, column, R, seed_key, threshold, stride_xm,
        DROP, BLOCK_M, BLOCK_C, BLOCK_R, PRECISION,
    )  # fmt: skip
    tl.store(
        parts_ptr + split * stride_part + cs[:, None] * stride_c + rs[None, :] * stride_r,
        scale * total,
        column[:, None] & rank[None, :],
    )
