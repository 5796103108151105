"""`lora_linear_many` by calling a backend of `lora_linear` for each update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen.kernels.lora_linear.variant import Variant as One

from .variant import Forward, Gradients, Updates, Variant, Wanted


def one_by_one(one: One) -> Variant:
    """The variant that has `one` compute every update of every layer."""

    def forward(
        x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], updates: Updates
    ) -> Forward:
        ys, xas = [], []
        for layer, weight in enumerate(weights):
            parts = []
            for i, part in _parts(updates, layer, x):
                a, b = updates.lora_a[i], updates.lora_b[i]
                bias = biases[layer] if biases else None
                y, xa = one.forward(part, weight, a, b, updates.scales[i], bias, updates.drops[i])
                parts.append(y)
                xas.append(xa.flatten())
            ys.append(torch.cat(parts))
        return Forward(ys, torch.cat(xas))

    def backward(
        dys: Sequence[Tensor],
        x: Tensor | None,
        weights: Sequence[Tensor],
        updates: Updates,
        xa: Tensor,
        wanted: Wanted,
    ) -> Gradients:
        total, das, dbs = None, [], []
        xas = torch.split(xa, updates.xa_numels())
        for layer, weight in enumerate(weights):
            seen = _parts(updates, layer, dys[layer] if x is None else x)
            dxs = []
            for (i, dy), (_, part) in zip(_parts(updates, layer, dys[layer]), seen, strict=True):
                a, b, drop = updates.lora_a[i], updates.lora_b[i], updates.drops[i]
                own = None if x is None else part
                low = xas[i].view(len(dy), a.shape[0])
                dx, da, db = one.backward(
                    dy, own, weight, a, b, updates.scales[i], low, wanted, drop
                )
                dxs += [] if dx is None else [dx]
                das += [] if da is None else [da]
                dbs += [] if db is None else [db]
            if wanted.x:
                dx = torch.cat(dxs)
                total = dx if total is None else total + dx
        return Gradients(total, das, dbs)

    return Variant(forward, backward)


def _parts(updates: Updates, layer: int, rows_of: Tensor) -> list[tuple[int, Tensor]]:
    """Each update of a layer, by its place among all, with its rows of a matrix."""
    first = layer * len(updates.rows)
    parts = torch.split(rows_of, list(updates.rows))
    return [(first + i, part) for i, part in enumerate(parts)]
