"""Host side of the Triton kernels of `lora_linear`: sizes, strides, grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from crucible_kitchen.kernels.common.hash import key_argument, threshold_argument
from crucible_kitchen.kernels.common.launcher import (
    DTYPES,
    Launcher,
    architecture_of,
    cdiv,
    dense,
    rows_of,
)

from . import builds
from .variant import NO_DROP, Drop, Forward, Gradients, Variant


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_backward, launch))


def _forward(
    launch: Launcher,
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
    drop: Drop = NO_DROP,
) -> Forward:
    y, xa = _update(launch, x, weight, lora_a, lora_b, scale, bias, drop, back=False)
    return Forward(y, xa.to(torch.float32))


def _backward(
    launch: Launcher,
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
        dx, dyb = _update(launch, dy, weight, lora_a, lora_b, scale, None, drop, back=True)
    if wanted[1] and x is not None:
        if dyb is None:
            dyb = dy @ lora_b.to(dy.dtype)
        da = _rank_gradient(launch, x, dyb, scale, drop, rank_first=True)
        da = da.to(lora_a.dtype).contiguous()
    if wanted[2]:
        db = _rank_gradient(launch, dy, xa, scale, NO_DROP, rank_first=False)
        db = db.to(lora_b.dtype).contiguous()
    return Gradients(dx, da, db)


def _update(
    launch: Launcher,
    x_MK: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias_N: Tensor | None,
    drop: Drop,
    *,
    back: bool,
) -> tuple[Tensor, Tensor]:
    """y = x P + scale (x Q) Z + bias, and x Q; the strides say which way (triton_kernels.py)."""
    x_MK, stride_m = rows_of(x_MK)
    M, K = x_MK.shape
    N, rank = weight.shape[1 if back else 0], lora_a.shape[0]
    R = builds.padded_rank(rank)
    y_MN, xq_MR = x_MK.new_empty((M, N)), x_MK.new_empty((M, R))
    if M == 0:
        return y_MN, xq_MR[:, :rank]
    # LoRA parameters are often float32 beside a bfloat16 x; a tile is multiplied in x's dtype.
    a_RK = dense(pad(lora_a.to(x_MK.dtype), (0, 0, 0, R - rank)))
    b_NR = dense(pad(lora_b.to(x_MK.dtype), (0, R - rank)))
    p_strides = weight.stride() if back else weight.stride()[::-1]
    q, q_strides, z, z_strides = (
        (b_NR, (R, 1), a_RK, (N, 1)) if back else (a_RK, (1, K), b_NR, (1, R))
    )
    bias_N = None if bias_N is None else bias_N.float().contiguous()
    masked = ("y" if back else "x") if drop.share else "none"
    dtype, architecture = DTYPES[x_MK.dtype], architecture_of(x_MK)
    configuration = builds.multiply(dtype, architecture, R, bias=bias_N is not None, drop=masked)
    constants = configuration.constants
    tiles_m, tiles_n = cdiv(M, int(constants["BLOCK_M"])), cdiv(N, int(constants["BLOCK_N"]))
    launch(
        "lora_linear.multiply",
        (tiles_m * tiles_n,),
        (
            x_MK, weight, q, z, bias_N, y_MN, xq_MR,
            M, N, K, R, scale, key_argument(drop.seed), threshold_argument(drop.share),
            stride_m, *p_strides, *q_strides, *z_strides,
        ),
        configuration,
    )  # fmt: skip
    return y_MN, xq_MR[:, :rank]


def _rank_gradient(
    launch: Launcher, x_MC: Tensor, s_MR: Tensor, scale: float, drop: Drop, *, rank_first: bool
) -> Tensor:
    """scale x^T s as [C, R], or its transpose, float32, without what the rank was padded by."""
    x_MC, stride_m = rows_of(x_MC)
    (M, C), rank = x_MC.shape, s_MR.shape[1]
    R = builds.padded_rank(rank)
    shape, strides = ((R, C), (1, C)) if rank_first else ((C, R), (R, 1))
    kept = (slice(rank),) if rank_first else (slice(None), slice(rank))
    if M == 0:
        return x_MC.new_zeros(shape, dtype=torch.float32)[kept]
    s_MR = dense(pad(s_MR.to(x_MC.dtype), (0, R - rank)))
    dtype, architecture = DTYPES[x_MC.dtype], architecture_of(x_MC)
    configuration = builds.rank_gradient(dtype, architecture, R, drop=drop.share > 0)
    block = int(configuration.constants["BLOCK_M"])
    tokens = min(builds.TOKENS_A_SPLIT, cdiv(M, block) * block)
    splits = cdiv(M, tokens)
    parts = x_MC.new_empty((splits, *shape), dtype=torch.float32)
    launch(
        "lora_linear.rank_gradient",
        (cdiv(C, int(configuration.constants["BLOCK_C"])), splits),
        (
            x_MC, s_MR, parts,
            M, C, R, scale, tokens,
            key_argument(drop.seed), threshold_argument(drop.share),
            stride_m, C * R, *strides,
        ),
        configuration,
    )  # fmt: skip
    return parts.sum(0)[kept]
