"""`lora_linear` for rows that have updates of their own, all updates of a layer in one launch.

The tiles are those of `../lora_linear`. A table says which rows a program has and whose they are:
of each range of rows the update, the first row, their number, and the first row of that update.
"""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from crucible_kitchen.kernels.lora_linear.triton_kernels import product, rank_sum, store


@triton.jit(do_not_specialize=["threshold"])
def _multiply(
    x_ptr, p_ptr, q_ptr, z_ptr, bias_ptr, y_ptr, xq_ptr,
    ranges_ptr,  # [RANGES, 4]
    scales_ptr, seed_keys_ptr,  # [UPDATES]
    ranges, N, K, R, threshold,
    stride_xm, stride_pk, stride_pn,
    stride_qu, stride_qk, stride_qr, stride_zu, stride_zr, stride_zn,
    DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of y = x P + scale (x Q) Z + bias, Q and Z those of the rows' update, and x Q."""
    # Programs that follow each other have the same columns, whose weights are the most to read.
    pid_m, pid_n = tl.program_id(0) % ranges, tl.program_id(0) // ranges
    update = tl.load(ranges_ptr + pid_m * 4)
    first = tl.load(ranges_ptr + pid_m * 4 + 1)
    length = tl.load(ranges_ptr + pid_m * 4 + 2)
    ms = first + tl.arange(0, BLOCK_M)
    ns = pid_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row, column = ms < first + length, ns < N
    y, xq = product(
        x_ptr, p_ptr, q_ptr + update * stride_qu, z_ptr + update * stride_zu,
        ms, row, ns, column, ms - tl.load(ranges_ptr + pid_m * 4 + 3),
        K, R, tl.load(scales_ptr + update), tl.load(seed_keys_ptr + update), threshold,
        stride_xm, stride_pk, stride_pn, stride_qk, stride_qr, stride_zr, stride_zn,
        DROP, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_R, PRECISION,
    )  # fmt: skip
    y += tl.load(bias_ptr + ns, column, other=0.0)[None, :]
    store(y_ptr, y, ms, row, ns, column, N)
    if pid_n == 0:
        rs = tl.arange(0, BLOCK_R).to(tl.int64)
        store(xq_ptr, xq, ms, row, rs, rs < R, R)


@triton.jit(do_not_specialize=["threshold"])
def _rank_gradient(
    x_ptr, s_ptr, parts_ptr,
    ranges_ptr,  # [RANGES, 4]
    scales_ptr, seed_keys_ptr,  # [UPDATES]
    C, R, threshold,
    stride_xm, stride_part, stride_c, stride_r,
    DROP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """parts[range] = scale x^T s over the rows of the range: x [M, C], s [M, R], a part [C, R]."""
    part = tl.program_id(1).to(tl.int64)
    update = tl.load(ranges_ptr + part * 4)
    first = tl.load(ranges_ptr + part * 4 + 1)
    length = tl.load(ranges_ptr + part * 4 + 2).to(tl.int32)
    cs = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    rs = tl.arange(0, BLOCK_R).to(tl.int64)
    column, rank = cs < C, rs < R
    total = rank_sum(
        x_ptr, s_ptr,
        first, length, tl.load(ranges_ptr + part * 4 + 3),
        cs, column, R, tl.load(seed_keys_ptr + update), threshold, stride_xm,
        DROP, BLOCK_M, BLOCK_C, BLOCK_R, PRECISION,
    )  # fmt: skip
    tl.store(
        parts_ptr + part * stride_part + cs[:, None] * stride_c + rs[None, :] * stride_r,
        tl.load(scales_ptr + update) * total,
        column[:, None] & rank[None, :],
    )
