"""`lora_linear_many` by the compiled kernel of `lora_linear`, in one call of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.lora_linear_many.variant import (
    Forward,
    Gradients,
    Updates,
    Variant,
    Wanted,
)
from crucible_kitchen.ops._lora_linear_cpu import panels_of, rows_together


def _forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], updates: Updates
) -> Forward:
    M = x.shape[0]
    ys = [x.new_empty(M, weight.shape[0]) for weight in weights]
    xa = torch.empty(sum(updates.xa_numels()), dtype=torch.float32)
    _C.lora_linear_forward(
        rows_together(x),
        [panels_of(weight, backward=False) for weight in weights],
        [bias.contiguous() for bias in biases],
        ys,
        updates.rows,
        _rows_together(updates.lora_a),
        _rows_together(updates.lora_b),
        updates.scales,
        xa,
        updates.drops[0].share,
        [drop.seed for drop in updates.drops],
        torch.get_num_threads(),
    )
    return Forward(ys, xa)


def _backward(
    dys: Sequence[Tensor],
    x: Tensor | None,
    weights: Sequence[Tensor],
    updates: Updates,
    xa: Tensor,
    wanted: Wanted,
) -> Gradients:
    M, K = dys[0].shape[0], weights[0].shape[1]
    dx = dys[0].new_empty(M, K) if wanted.x else None
    das = _empty_like(updates.lora_a) if wanted.lora_a else []
    dbs = _empty_like(updates.lora_b) if wanted.lora_b else []
    none = [None] * len(updates.lora_a)
    _C.lora_linear_backward(
        None if x is None else rows_together(x),
        [panels_of(weight, backward=True) if wanted.x else None for weight in weights],
        [rows_together(dy) for dy in dys],
        updates.rows,
        _rows_together(updates.lora_a),
        _rows_together(updates.lora_b),
        updates.scales,
        xa,
        updates.drops[0].share,
        [drop.seed for drop in updates.drops],
        dx,
        das or none,
        dbs or none,
        torch.get_num_threads(),
    )
    return Gradients(dx, das, dbs)


def _rows_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t if t.is_contiguous() else rows_together(t) for t in tensors]


def _empty_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A tensor for each; cut from one where all are alike, for there may be hundreds."""
    first = tensors[0]
    shape, dtype = first.shape, first.dtype
    if len(tensors) > 1 and all(t.shape == shape and t.dtype == dtype for t in tensors):
        return list(first.new_empty(len(tensors), *shape).unbind())
    return [t.new_empty(*t.shape) for t in tensors]


lora_linear_many = Variant(_forward, _backward, takes_stacks=True)
