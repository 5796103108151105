"""Host side of the Triton kernels of `lora_linear_many`: tables of rows, sizes, strides, grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

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
from crucible_kitchen.kernels.lora_linear.builds import (
    TOKENS_A_SPLIT,
    padded_rank,
    rank_gradient,
)
from crucible_kitchen.kernels.lora_linear.variant import NO_DROP

from . import builds
from .variant import Forward, Gradients, Updates, Variant, Wanted

# Layers and passes of a step repeat the same rows and scales, whose tables then are there already.
_TABLES_KEPT = 64


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_backward, launch))


def _forward(
    launch: Launcher,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    updates: Updates,
) -> Forward:
    ys, xas = [], []
    for layer, weight in enumerate(weights):
        mine = updates.of_layer(layer)
        bias = biases[layer] if biases else None
        y, xa_MR = _update(launch, x, weight, mine, bias, back=False)
        ys.append(y)
        xas.append(_end_to_end(xa_MR.to(torch.float32), mine))
    return Forward(ys, torch.cat(xas) if len(xas) > 1 else xas[0])


def _backward(
    launch: Launcher,
    dys: Sequence[Tensor],
    x: Tensor | None,
    weights: Sequence[Tensor],
    updates: Updates,
    xa: Tensor,
    wanted: Wanted,
) -> Gradients:
    total, das, dbs = None, [], []
    xas = torch.split(xa, updates.xa_numels())
    for layer, (dy, weight) in enumerate(zip(dys, weights, strict=True)):
        mine, dyb_MR = updates.of_layer(layer), None
        if wanted.x:
            dx, dyb_MR = _update(launch, dy, weight, mine, None, back=True)
            total = dx if total is None else total + dx
        if wanted.lora_a and x is not None:
            if dyb_MR is None:
                parts = zip(torch.split(dy, list(mine.rows)), mine.lora_b, strict=True)
                dyb_MR = _joined([part @ b.to(dy.dtype) for part, b in parts], _rank(mine))
            das += _rank_gradients(launch, x, dyb_MR, mine, rank_first=True)
        if wanted.lora_b:
            parts = zip(xas[layer * len(mine.rows) :], mine.lora_a, strict=False)
            xa_MR = _joined([part.view(-1, a.shape[0]) for part, a in parts], _rank(mine))
            without = mine._replace(drops=[NO_DROP] * len(mine.rows))
            dbs += _rank_gradients(launch, dy, xa_MR, without, rank_first=False)
    return Gradients(total, das, dbs)


def _update(
    launch: Launcher,
    x_MK: Tensor,
    weight: Tensor,
    updates: Updates,
    bias_N: Tensor | None,
    *,
    back: bool,
) -> tuple[Tensor, Tensor]:
    """y = x P + scale (x Q) Z + bias, and x Q; the strides say which way, as in `lora_linear`."""
    x_MK, stride_m = rows_of(x_MK)
    M, K = x_MK.shape
    N, R = weight.shape[1 if back else 0], _rank(updates)
    y_MN, xq_MR = x_MK.new_empty((M, N)), x_MK.new_empty((M, R))
    if M == 0:
        return y_MN, xq_MR
    a_URK = _stacked(updates.lora_a, 0, R, x_MK.dtype)
    b_UNR = _stacked(updates.lora_b, 1, R, x_MK.dtype)
    p_strides = weight.stride() if back else weight.stride()[::-1]
    q, q_strides, z, z_strides = (
        (b_UNR, (R, 1), a_URK, (N, 1)) if back else (a_URK, (1, K), b_UNR, (1, R))
    )
    bias_N = x_MK.new_zeros(N, dtype=torch.float32) if bias_N is None else bias_N.float()
    drop = updates.drops[0]
    masked = ("y" if back else "x") if drop.share else "none"
    dtype, architecture = DTYPES[x_MK.dtype], architecture_of(x_MK)
    configuration = builds.multiply(dtype, architecture, R, drop=masked)
    block_m, block_n = (int(configuration.constants[name]) for name in ("BLOCK_M", "BLOCK_N"))
    ranges, scales, seed_keys = _tables(updates, block_m, 0, x_MK.device)
    launch(
        "lora_linear_many.multiply",
        (len(ranges) * cdiv(N, block_n),),
        (
            x_MK, weight, q, z, dense(bias_N), y_MN, xq_MR, ranges, scales, seed_keys,
            len(ranges), N, K, R, threshold_argument(drop.share),
            stride_m, *p_strides, K * R, *q_strides, N * R, *z_strides,
        ),
        configuration,
    )  # fmt: skip
    return y_MN, xq_MR


def _rank_gradients(
    launch: Launcher, x_MC: Tensor, s_MR: Tensor, updates: Updates, *, rank_first: bool
) -> list[Tensor]:
    """scale x^T s of each update as [C, R], or its transpose, as its A or B is."""
    x_MC, stride_m = rows_of(x_MC)
    (M, C), R = x_MC.shape, s_MR.shape[1]
    like, axis = (updates.lora_a, 0) if rank_first else (updates.lora_b, 1)
    if M == 0:
        return [torch.zeros_like(matrix) for matrix in like]
    shape, strides = ((R, C), (1, C)) if rank_first else ((C, R), (R, 1))
    s_MR, drop = dense(s_MR.to(x_MC.dtype)), updates.drops[0]
    dtype, architecture = DTYPES[x_MC.dtype], architecture_of(x_MC)
    configuration = rank_gradient(dtype, architecture, R, drop=drop.share > 0)
    # An update without rows has a range without rows: its gradients are zeros.
    ranges, scales, seed_keys = _tables(updates, TOKENS_A_SPLIT, 1, x_MC.device)
    parts = x_MC.new_empty((len(ranges), *shape), dtype=torch.float32)
    launch(
        "lora_linear_many.rank_gradient",
        (cdiv(C, int(configuration.constants["BLOCK_C"])), len(ranges)),
        (
            x_MC, s_MR, parts, ranges, scales, seed_keys,
            C, R, threshold_argument(drop.share), stride_m, C * R, *strides,
        ),
        configuration,
    )  # fmt: skip
    if len(ranges) > len(updates.rows):
        counts = [max(1, cdiv(rows, TOKENS_A_SPLIT)) for rows in updates.rows]
        parts = torch.stack([part.sum(0) for part in torch.split(parts, counts)])
    if len(dtypes := {matrix.dtype for matrix in like}) == 1:
        parts = parts.to(dtypes.pop())  # in one go
    return [
        part.narrow(axis, 0, matrix.shape[axis]).to(matrix.dtype).contiguous()
        for part, matrix in zip(parts.unbind(), like, strict=True)
    ]


def _rank(updates: Updates) -> int:
    """The rank as the kernels see it, which is one for all updates."""
    return padded_rank(max(a.shape[0] for a in updates.lora_a))


def _stacked(matrices: Sequence[Tensor], axis: int, R: int, dtype: torch.dtype) -> Tensor:
    """All A, [U, R, K], or all B, [U, N, R], with zeros where a rank is less than R."""
    if len({matrix.shape[axis] for matrix in matrices}) > 1:
        matrices = [_padded(matrix, axis, R) for matrix in matrices]
    return dense(_padded(torch.stack(list(matrices)).to(dtype), axis + 1, R))


def _joined(parts: Sequence[Tensor], R: int) -> Tensor:
    """Rows of one column a rank, [M, R], with zeros where a rank is less than R."""
    if len({part.shape[1] for part in parts}) > 1:
        parts = [_padded(part, 1, R) for part in parts]
    return _padded(torch.cat(list(parts)), 1, R)


def _end_to_end(xa_MR: Tensor, updates: Updates) -> Tensor:
    """The [rows, R] of each update without what its rank was padded by, one after the other."""
    if len(ranks := {a.shape[0] for a in updates.lora_a}) == 1:
        return xa_MR[:, : ranks.pop()].reshape(-1)
    parts = zip(torch.split(xa_MR, list(updates.rows)), updates.lora_a, strict=True)
    return torch.cat([part[:, : a.shape[0]].reshape(-1) for part, a in parts])


def _padded(tensor: Tensor, axis: int, R: int) -> Tensor:
    short = R - tensor.shape[axis]
    return pad(tensor, (0, 0) * (tensor.ndim - 1 - axis) + (0, short)) if short else tensor


def _tables(
    updates: Updates, block: int, least: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """What a program looks up: ranges of rows (see `_ranges`), scales and keys of the masks."""
    dropped = any(drop.share for drop in updates.drops)
    keys = tuple(key_argument(drop.seed) if dropped else 0 for drop in updates.drops)
    return (
        _ranges(tuple(updates.rows), block, least, device),
        _on_device(tuple(updates.scales), torch.float32, device),
        _on_device(keys, torch.int64, device),
    )


@lru_cache(_TABLES_KEPT)
def _ranges(rows: tuple[int, ...], block: int, least: int, device: torch.device) -> Tensor:
    """Update, first row, rows, and the update's first row: [RANGES, 4], int64.

    Args:
        rows: of each update.
        block: most rows of a range.
        least: ranges of an update without rows.
    """
    ranges, own = [], 0
    for update, count in enumerate(rows):
        for i in range(max(least, cdiv(count, block))):
            ranges.append((update, own + i * block, min(block, count - i * block), own))
        own += count
    return torch.tensor(ranges, dtype=torch.int64).view(-1, 4).to(device)


@lru_cache(_TABLES_KEPT)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(device)
