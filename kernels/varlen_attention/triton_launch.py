"""Starts the Triton kernels of `varlen_attention`: tables of tiles, sizes of blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .triton_kernels import _forward_kernel, _grad_kv_kernel, _grad_q_kernel
from .variant import Forward, Gradients, Segments, Variant


class Tiles(NamedTuple):
    """Sizes of blocks, and how a kernel is built.

    Args:
        rows: queries, and keys, of a tile.
        precision: of products of float32.
        warps, stages: Triton's own.
    """

    rows: int
    precision: str
    warps: int
    stages: int


def tiles_for(dtype: torch.dtype, block_d: int) -> Tiles:
    """Blocks that fit the registers and the shared memory of every GPU since 2020."""
    wide = dtype == torch.float32 or block_d > 128
    precision = "ieee" if dtype == torch.float32 else "tf32"  # read for float32 alone
    return Tiles(32 if wide else 64, precision, 4 if wide else 8, 1 if wide else 2)


class _Tree(NamedTuple):
    """Where everything is, on the device, int64.

    Args:
        tiles: a tile's segment and its first token, [tiles, 2].
        bounds, parents, positions: of segments; a position is the first token's in its sequences.
        reach: where each segment's part of `reached` begins, then its length.
        reached: the segment itself and all that continue it, segment by segment.
    """

    tiles: Tensor
    bounds: Tensor
    parents: Tensor
    positions: Tensor
    reach: Tensor
    reached: Tensor


def _tree_of(segments: Segments, rows: int, device: torch.device) -> _Tree:
    bounds: list[int] = segments.bounds.tolist()
    count = len(bounds) - 1
    parents = [-1] * count if segments.parents is None else segments.parents.tolist()
    tiles = [(i, at) for i in range(count) for at in range(bounds[i], bounds[i + 1], rows)]
    positions: list[int] = []
    reached: list[list[int]] = [[] for _ in range(count)]
    for i, parent in enumerate(parents):
        before = bounds[parent + 1] - bounds[parent] + positions[parent] if parent >= 0 else 0
        positions.append(before)
        up = i
        while up >= 0:
            reached[up].append(i)
            up = parents[up]
    reach = [0]
    for below in reached:
        reach.append(reach[-1] + len(below))
    flat = [i for below in reached for i in below]
    lists = (tiles, bounds, parents, positions, reach, flat)
    return _Tree(*(torch.tensor(values, dtype=torch.int64).to(device) for values in lists))


def _constants(q: Tensor, k: Tensor, scale: float, window: int) -> tuple[Any, ...]:
    return q.shape[1], k.shape[1], q.shape[2], scale, window


def _options(q: Tensor) -> dict[str, Any]:
    block_d = max(16, triton.next_power_of_2(q.shape[-1]))
    tiles = tiles_for(q.dtype, block_d)
    return {
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.rows,
        "BLOCK_D": block_d,
        "PRECISION": tiles.precision,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, window: int
) -> Forward:
    q, k, v = (t.contiguous() for t in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    if not len(q):
        return Forward(out, lse)
    options = _options(q)
    tree = _tree_of(segments, options["BLOCK_M"], q.device)
    _forward_kernel[(len(tree.tiles), q.shape[1])](
        q, k, v, out, lse, *tree[:4], *_constants(q, k, scale, window), **options
    )
    return Forward(out, lse)


def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    scale: float,
    window: int,
) -> Gradients:
    dout, q, k, v, lse = (t.contiguous() for t in (dout, q, k, v, lse))
    made = Gradients(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v)))
    if not len(q):
        return made
    along = (dout.float() * out.float()).sum(-1)
    options = _options(q)
    tree = _tree_of(segments, options["BLOCK_M"], q.device)
    given = (dout, q, k, v, lse, along)
    constants = _constants(q, k, scale, window)
    _grad_q_kernel[(len(tree.tiles), q.shape[1])](*given, made.q, *tree[:4], *constants, **options)
    _grad_kv_kernel[(len(tree.tiles), k.shape[1])](
        *given, made.k, made.v, tree.tiles, tree.bounds, *tree[3:], *constants, **options
    )
    return made


varlen_attention = Variant(_forward, _backward)
