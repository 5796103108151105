"""What every backend of `lora_linear` brings: a forward, and a backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Forward(NamedTuple):
    """What a forward returns.

    Args:
        y: x W^T + s (x A^T) B^T + b, [M, N], in x's dtype.
        xa: x A^T, which the gradient of B needs, [M, R], float32 (float64 from float64).
    """

    y: Tensor
    xa: Tensor


class Drop(NamedTuple):
    """Which elements of x an update does not see: `common.hash.kept` has the rule.

    The scale that goes with it is divided by the share that is kept, so nothing else is.

    Args:
        share: of the elements, in [0, 1); 0 drops none.
        seed: 64 bits; the same seed drops the same elements, in every pass and on every backend.
    """

    share: float
    seed: int


NO_DROP = Drop(0.0, 0)


class Gradients(NamedTuple):
    """What a backward returns; None where it was not wanted, else in the dtype of its tensor."""

    x: Tensor | None
    lora_a: Tensor | None
    lora_b: Tensor | None


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        forward: takes x [M, K], weight [N, K], lora_a [R, K], lora_b [N, R], scale, bias [N],
            which may be None, and a `Drop`.
        backward: takes dy [M, N], x [M, K] (None where dA is not wanted), weight, lora_a, lora_b,
            scale, xa, three bools (which of dx, dA, dB are wanted), and a `Drop`.
    """

    forward: Callable[..., Forward]
    backward: Callable[..., Gradients]

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        lora_a: Tensor,
        lora_b: Tensor,
        scale: float,
        bias: Tensor | None = None,
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Tensor:
        """y alone, [..., N] from x [..., K]."""
        rows = x.reshape(-1, x.shape[-1])
        drop = Drop(dropout, seed)
        y = self.forward(rows, weight, lora_a, lora_b, scale / (1 - dropout), bias, drop).y
        return y.view(*x.shape[:-1], weight.shape[0])
