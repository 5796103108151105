"""Host side of the Triton kernels of `rms_norm`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.launcher import (
    DTYPES,
    Launcher,
    architecture_of,
    cdiv,
    dense,
)

from . import builds
from .variant import Forward, Gradients, Variant


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_backward, launch))


def _forward(launch: Launcher, x: Tensor, weight: Tensor, eps: float) -> Forward:
    M, N = x.shape
    y = torch.empty((M, N), dtype=x.dtype, device=x.device)
    rstd = torch.empty(M, dtype=torch.float32, device=x.device)
    if M:
        configuration = builds.row(DTYPES[x.dtype], architecture_of(x), N)
        args = (dense(x), dense(weight), y, rstd, N, eps)
        launch("rms_norm.forward", (M,), args, configuration)
    return Forward(y, rstd)


def _backward(
    launch: Launcher,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    wanted: Sequence[bool],
) -> Gradients:
    M, N = x.shape
    dx = dw = None
    dy, x = dense(dy), dense(x)
    dtype, architecture = DTYPES[x.dtype], architecture_of(x)
    if wanted[0]:
        dx = torch.empty((M, N), dtype=x.dtype, device=x.device)
        if M:
            args = (dy, x, dense(weight), rstd, dx, N)
            launch("rms_norm.grad_x", (M,), args, builds.row(dtype, architecture, N))
    if wanted[1]:
        configuration = builds.grad_weight(dtype, architecture)
        block = int(configuration.constants["BLOCK_M"])
        rows = min(builds.ROWS_A_SPLIT, cdiv(max(M, 1), block) * block)
        splits = cdiv(M, rows)
        parts = torch.empty((splits, N), dtype=torch.float32, device=x.device)
        if M:
            grid = (cdiv(N, int(configuration.constants["BLOCK_C"])), splits)
            summed = (dy, x, rstd, parts, M, N, rows)
            launch("rms_norm.grad_weight", grid, summed, configuration)
        dw = parts.sum(0).to(weight.dtype)
    return Gradients(dx, dw)
