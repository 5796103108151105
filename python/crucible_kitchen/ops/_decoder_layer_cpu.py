"""A decoder layer in one call of compiled code each way: what kernels it runs, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.lora_linear_many.variant import Updates, Wanted
from crucible_kitchen.ops._lora_linear_cpu import panels_of, rows_together
from crucible_kitchen.ops._table import held, takes_processors

# As csrc/bind/decoder_layer.cpp reads it.
Arguments = tuple[Any, ...]


class Layer(NamedTuple):
    """All that a call computes with, beside its rows.

    Args:
        norms: weight and eps of the one before attention, and of the one before the MLP.
        attention: cos, sin, bounds, parents, scale and window.
        linears: those of q, k and v; o; gate and up; down. See `linears`.
    """

    norms: tuple[tuple[Tensor, float], ...]
    attention: Arguments
    linears: tuple[Arguments, ...]


def takes(x: Tensor) -> bool:
    """Whether compiled code computes a whole layer for these rows.

    Where ops are held to a backend each of its kernels is a call of its own, which can be watched.
    """
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.bfloat16)
        and held() is None
        and takes_processors()
    )


def linears(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    updates: Updates,
    *,
    backward: bool,
    wants_x: bool = True,
) -> Arguments:
    """Linears that read the same rows, as compiled code takes them."""
    return (
        [panels_of(weight, backward=backward) if wants_x else None for weight in weights],
        () if backward else [bias.contiguous() for bias in biases],
        updates.rows,
        list(map(rows_together, updates.lora_a)),
        list(map(rows_together, updates.lora_b)),
        updates.scales,
        updates.drops[0].share,
        [drop.seed for drop in updates.drops],
    )


def forward(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """The layer's output for rows x [T, H], and what the backward needs beside them."""
    return _C.decoder_layer_forward(x, *layer, torch.get_num_threads())


def backward(
    dy: Tensor, x: Tensor, kept: Tensor, layer: Layer, wanted: Sequence[Wanted]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of x and, by `layer.linears`, of all A and all B, as far as wanted.

    Args:
        wanted: of each of `layer.linears`.
    """
    pairs = [(of.lora_a, of.lora_b) for of in wanted]
    return _C.decoder_layer_backward(
        dy, x, kept, *layer, pairs, wanted[0].x, torch.get_num_threads()
    )
