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

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from crucible_kitchen.kernels.common.triton_hash import key_argument, mix, threshold_argument

from .variant import NO_DROP, Drop

# Tokens that one program of `_rank_gradient` sums before its part is added to the others'.
TOKENS_A_SPLIT = 2048


class Tiles(NamedTuple):
    """Tile sizes and launch shape of one kernel: rows, columns, and what is summed over."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


# `_multiply`, by whether the tensors are float32 and the largest tile of the rank: the largest
# tiles whose two sums, base product and rank, stay in the registers of sm_80, sm_90 and sm_100 (see
# tests/kernels/test_triton_compile.py). float32 goes through three tf32 products: it takes more.
_MULTIPLY = {
    False: {32: Tiles(128, 128, 64, 8, 3), 128: Tiles(64, 128, 64, 8, 3)},
    True: {32: Tiles(64, 64, 16, 4, 2), 128: Tiles(32, 64, 16, 8, 2)},
}
# `_rank_gradient`: its rows are the whole rank, its columns the layer's, its sum is over tokens.
_RANK_GRADIENT = {False: Tiles(0, 64, 64, 4, 3), True: Tiles(0, 64, 32, 8, 2)}


def tiles_for(dtype: torch.dtype, block_r: int) -> Tiles:
    """Those of `_multiply`; a rank above 128 takes the smallest and may spill."""
    tiles = _MULTIPLY[dtype == torch.float32]
    return tiles[32 if block_r <= 32 else 128]


def rank_tiles_for(dtype: torch.dtype) -> Tiles:
    """Those of `_rank_gradient`; n columns by all of the rank, k tokens at a time."""
    return _RANK_GRADIENT[dtype == torch.float32]


def precision_of(dtype: torch.dtype) -> str:
    """How Triton is to multiply; it matters to float32 only."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def block_of_rank(rank: int) -> int:
    """The smallest tile that holds the rank; tensor cores want at least 16."""
    return max(16, 1 << (rank - 1).bit_length())


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


def forward(
    x_MK: Tensor,
    weight_NK: Tensor,
    lora_a_RK: Tensor,
    lora_b_NR: Tensor,
    scale: float,
    bias_N: Tensor | None = None,
    drop: Drop = NO_DROP,
) -> tuple[Tensor, Tensor]:
    """y [M, N] and x A^T [M, R], which backward wants; both in x's dtype, summed in float32."""
    return _update(x_MK, weight_NK.T, lora_a_RK.T, lora_b_NR.T, scale, bias_N, drop, "x")


def grad_x(
    dy_MN: Tensor,
    weight_NK: Tensor,
    lora_a_RK: Tensor,
    lora_b_NR: Tensor,
    scale: float,
    drop: Drop = NO_DROP,
) -> tuple[Tensor, Tensor]:
    """dx [M, K] = dy W + scale (dy B) A, and dy B [M, R], which dA wants."""
    return _update(dy_MN, weight_NK, lora_b_NR, lora_a_RK, scale, None, drop, "y")


def grad_a(
    x_MK: Tensor, dyb_MR: Tensor, scale: float, dtype: torch.dtype, drop: Drop = NO_DROP
) -> Tensor:
    """dA [R, K] = scale (dy B)^T x, in `dtype`."""
    return _sum_over_tokens(x_MK, dyb_MR, scale, drop, rank_first=True).to(dtype)


def grad_b(dy_MN: Tensor, xa_MR: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """dB [N, R] = scale dy^T (x A^T), in `dtype`."""
    return _sum_over_tokens(dy_MN, xa_MR, scale, NO_DROP, rank_first=False).to(dtype)


def _update(
    x_MK: Tensor,
    p_KN: Tensor,
    q_KR: Tensor,
    z_RN: Tensor,
    scale: float,
    bias_N: Tensor | None,
    drop: Drop,
    dropped: str,
) -> tuple[Tensor, Tensor]:
    """y = x P + scale (x Q) Z + bias, and x Q."""
    x_MK = _rows(x_MK)
    M, K = x_MK.shape
    N, R = p_KN.shape[1], q_KR.shape[1]
    y_MN, xq_MR = x_MK.new_empty((M, N)), x_MK.new_empty((M, R))
    if M == 0:
        return y_MN, xq_MR
    # LoRA parameters are often float32 beside a bfloat16 x; a tile is multiplied in x's dtype.
    q_KR, z_RN = q_KR.to(x_MK.dtype), z_RN.to(x_MK.dtype)
    block_r = block_of_rank(R)
    tiles = tiles_for(x_MK.dtype, block_r)
    _multiply[(triton.cdiv(M, tiles.m) * triton.cdiv(N, tiles.n),)](
        x_MK, p_KN, q_KR, z_RN, bias_N, y_MN, xq_MR,
        M, N, K, R, scale, key_argument(drop.seed), threshold_argument(drop.share),
        x_MK.stride(0), *p_KN.stride(), *q_KR.stride(), *z_RN.stride(),
        BIAS=bias_N is not None, DROP=dropped if drop.share else "none",
        BLOCK_M=tiles.m, BLOCK_N=tiles.n, BLOCK_K=tiles.k, BLOCK_R=block_r,
        PRECISION=precision_of(x_MK.dtype), num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return y_MN, xq_MR


def _sum_over_tokens(
    x_MC: Tensor, s_MR: Tensor, scale: float, drop: Drop, *, rank_first: bool
) -> Tensor:
    """scale x^T s as [C, R], or its transpose, float32."""
    x_MC, s_MR = _rows(x_MC), s_MR.to(x_MC.dtype).contiguous()
    (M, C), R = x_MC.shape, s_MR.shape[1]
    shape = (R, C) if rank_first else (C, R)
    if M == 0:
        return x_MC.new_zeros(shape, dtype=torch.float32)
    splits = triton.cdiv(M, TOKENS_A_SPLIT)
    parts = x_MC.new_empty((splits, *shape), dtype=torch.float32)
    stride_c, stride_r = (1, C) if rank_first else (R, 1)
    tiles = rank_tiles_for(x_MC.dtype)
    _rank_gradient[(triton.cdiv(C, tiles.n), splits)](
        x_MC, s_MR, parts,
        M, C, R, scale, TOKENS_A_SPLIT, key_argument(drop.seed), threshold_argument(drop.share),
        x_MC.stride(0), parts.stride(0), stride_c, stride_r,
        DROP=drop.share > 0,
        BLOCK_M=tiles.k, BLOCK_C=tiles.n, BLOCK_R=block_of_rank(R),
        PRECISION=precision_of(x_MC.dtype), num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return parts.sum(0)


def _rows(x: Tensor) -> Tensor:
    """x itself if each of its rows lies together, else a copy."""
    return x if x.stride(1) == 1 else x.contiguous()
