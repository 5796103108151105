"""What every backend of `lora_linear_many` brings: a forward, and a backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from crucible_kitchen.kernels.lora_linear.variant import Drop


class Updates(NamedTuple):
    """The low-rank updates of a call: those of the first layer by rows, then of the next.

    Args:
        lora_a: A of each, [R, K]; or of each layer all, [updates, R, K].
        lora_b: B of each, [N, R] with its layer's N; or likewise [updates, N, R].
        scales: s of each, divided by the share that dropout keeps.
        rows: rows of x that an update of each layer is for, in order; they sum to M.
        drops: what each does not see of x; rows count from the update's first.
    """

    lora_a: Sequence[Tensor]
    lora_b: Sequence[Tensor]
    scales: Sequence[float]
    rows: Sequence[int]
    drops: Sequence[Drop]

    @property
    def stacked(self) -> bool:
        """Whether a tensor has all A, or all B, of a layer."""
        return self.lora_a[0].ndim == 3

    def xa_numels(self) -> list[int]:
        """Elements of each update's x A^T."""
        if self.stacked:
            return [count * a.shape[1] for a in self.lora_a for count in self.rows]
        rows = [*self.rows] * (len(self.lora_a) // len(self.rows))
        return [count * a.shape[0] for count, a in zip(rows, self.lora_a, strict=True)]

    def apart(self) -> Updates:
        """The same with a tensor for each update."""
        if not self.stacked:
            return self
        lora_a = [a for stack in self.lora_a for a in stack.unbind()]
        return self._replace(lora_a=lora_a, lora_b=[b for s in self.lora_b for b in s.unbind()])

    def of_layer(self, layer: int) -> Updates:
        """Those of one layer alone."""
        mine = slice(layer * len(self.rows), (layer + 1) * len(self.rows))
        a, b, scales, rows, drops = self
        return Updates(a[mine], b[mine], scales[mine], rows, drops[mine])


class Forward(NamedTuple):
    """y of each layer, [M, N], and the [rows, R] of every update's x A^T, one after the other."""

    ys: list[Tensor]
    xa: Tensor


class Wanted(NamedTuple):
    """Which gradients a backward is to make, of all layers and updates alike."""

    x: bool
    lora_a: bool
    lora_b: bool


class Gradients(NamedTuple):
    """Of x (the sum over the layers), and of each A and B; None or empty where not wanted."""

    x: Tensor | None
    lora_a: list[Tensor]
    lora_b: list[Tensor]

    def stacked(self, updates: int) -> Gradients:
        """With the A, and the B, of each layer in one tensor."""
        a, b = (
            [torch.stack(grads[i : i + updates]) for i in range(0, len(grads), updates)]
            for grads in (self.lora_a, self.lora_b)
        )
        return Gradients(self.x, a, b)


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        forward: takes x [M, K], weights [N, K], biases [N] (one a layer, or none), and `Updates`.
        backward: takes dys [M, N], x (None where dA is not wanted), weights, `Updates`, xa and
            `Wanted`.
        takes_stacks: whether `Updates` may be stacked; their gradients are then, too.
    """

    forward: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Updates], Forward]
    backward: Callable[..., Gradients]
    takes_stacks: bool = False

    def __call__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        lora_a: Sequence[Tensor],
        lora_b: Sequence[Tensor],
        scales: Sequence[float],
        rows: Sequence[int] | None = None,
        biases: Sequence[Tensor] | None = None,
        *,
        dropout: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """The ys alone."""
        rows = [x.shape[0]] if rows is None else rows
        seeds = seeds or [0] * len(weights) * len(rows)
        drops = [Drop(dropout, seed) for seed in seeds]
        scaled = [scale / (1 - dropout) for scale in scales]
        updates = Updates(lora_a, lora_b, scaled, rows, drops)
        updates = updates if self.takes_stacks else updates.apart()
        return self.forward(x, weights, biases or (), updates).ys
