"""The definition of `lora_linear`, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.hash import kept

from .variant import NO_DROP, Drop, Forward, Gradients, Variant


def forward(
    x_MK: Tensor,
    w_NK: Tensor,
    a_RK: Tensor,
    b_NR: Tensor,
    scale: float,
    bias_N: Tensor | None,
    drop: Drop = NO_DROP,
) -> Forward:
    """y = x W^T + s ((m * x) A^T) B^T + b, and (m * x) A^T."""
    x, w, a, b = (t.double() for t in (x_MK, w_NK, a_RK, b_NR))
    xa = (x * kept_of(x, drop)) @ a.T
    y = x @ w.T + scale * xa @ b.T
    if bias_N is not None:
        y = y + bias_N.double()
    return Forward(y.to(x_MK.dtype), xa.to(torch.promote_types(x_MK.dtype, torch.float32)))


def backward(
    dy_MN: Tensor,
    x_MK: Tensor | None,
    w_NK: Tensor,
    a_RK: Tensor,
    b_NR: Tensor,
    scale: float,
    xa_MR: Tensor,
    wanted: Sequence[bool],
    drop: Drop = NO_DROP,
) -> Gradients:
    """dx = dy W + s m * (dy B) A;  dA = s (dy B)^T (m * x);  dB = s dy^T ((m * x) A^T)."""
    dy, w, a, b, xa = (t.double() for t in (dy_MN, w_NK, a_RK, b_NR, xa_MR))
    dx = da = None
    if wanted[0]:
        through = (dy @ b) @ a
        dx = dy @ w + scale * through * kept_of(through, drop)
    if wanted[1] and x_MK is not None:
        da = scale * (dy @ b).T @ (x_MK.double() * kept_of(x_MK, drop))
    db = scale * dy.T @ xa if wanted[2] else None
    return Gradients(
        None if dx is None else dx.to(dy_MN.dtype),
        None if da is None else da.to(a_RK.dtype),
        None if db is None else db.to(b_NR.dtype),
    )


def kept_of(x_MK: Tensor, drop: Drop) -> Tensor:
    """The mask m, [M, K]: 1 for what the update sees of x."""
    M, K = x_MK.shape
    return kept(M, K, drop.share, drop.seed, x_MK.device).double()


def dora_linear(
    x_MK: Tensor,
    w_NK: Tensor,
    a_RK: Tensor,
    b_NR: Tensor,
    m_N: Tensor,
    scale: float,
    bias_N: Tensor | None = None,
    drop: Drop = NO_DROP,
) -> Tensor:
    """y = m / n * (x W^T + s ((m * x) A^T) B^T) + b, n = |rows of W + s B A|; in float64.

    Differentiable by torch, which n is kept from.
    """
    x, w, a, b, m = (t.double() for t in (x_MK, w_NK, a_RK, b_NR, m_N))
    n: Tensor = torch.linalg.vector_norm((w + scale * b @ a).detach(), dim=1)
    y: Tensor = m / n * (x @ w.T + scale / (1 - drop.share) * (x * kept_of(x, drop)) @ a.T @ b.T)
    return y if bias_N is None else y + bias_N.double()


lora_linear = Variant(forward, backward)
