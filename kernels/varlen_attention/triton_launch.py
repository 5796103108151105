"""Host side of the Triton kernels of `varlen_attention`: tables of tiles, grids."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.configuration import Configuration
from crucible_kitchen.kernels.common.launcher import DTYPES, Launcher, architecture_of, dense

from . import builds
from .variant import Forward, Gradients, Segments, Variant


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_backward, launch))


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


def _tree_of(segments: Segments, configuration: Configuration, device: torch.device) -> _Tree:
    rows = int(configuration.constants["BLOCK_M"])
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


def _sizes(q: Tensor, k: Tensor, scale: float, window: int) -> tuple[Any, ...]:
    return q.shape[1], k.shape[1], q.shape[2], scale, window


def _configuration(kernel: str, q: Tensor) -> Configuration:
    return builds.attention(kernel, DTYPES[q.dtype], architecture_of(q), q.shape[-1])


def _forward(
    launch: Launcher,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    scale: float,
    window: int,
) -> Forward:
    q, k, v = (dense(t) for t in (q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    if not len(q):
        return Forward(out, lse)
    configuration = _configuration("forward", q)
    tree = _tree_of(segments, configuration, q.device)
    args = (q, k, v, out, lse, *tree[:4], *_sizes(q, k, scale, window))
    launch("varlen_attention.forward", (len(tree.tiles), q.shape[1]), args, configuration)
    return Forward(out, lse)


def _backward(
    launch: Launcher,
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
    dout, q, k, v, lse = (dense(t) for t in (dout, q, k, v, lse))
    made = Gradients(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v)))
    if not len(q):
        return made
    along = (dout.float() * out.float()).sum(-1)
    given = (dout, q, k, v, lse, along)
    sizes = _sizes(q, k, scale, window)
    configuration = _configuration("grad_q", q)
    tree = _tree_of(segments, configuration, q.device)
    launch(
        "varlen_attention.grad_q",
        (len(tree.tiles), q.shape[1]),
        (*given, made.q, *tree[:4], *sizes),
        configuration,
    )
    configuration = _configuration("grad_kv", q)
    tree = _tree_of(segments, configuration, q.device)
    launch(
        "varlen_attention.grad_kv",
        (len(tree.tiles), k.shape[1]),
        (*given, made.k, made.v, tree.tiles, tree.bounds, *tree[3:], *sizes),
        configuration,
    )
    return made
