"""What every backend of `rms_norm` brings: a forward, and a backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Forward(NamedTuple):
    """What a forward returns.

    Args:
        y: [M, N], in x's dtype.
        rstd: 1 / sqrt(mean(x^2) + eps) of each row, [M], float32 (float64 from float64).
    """

    y: Tensor
    rstd: Tensor


class Gradients(NamedTuple):
    """What a backward returns; None where it was not wanted, else in the dtype of its tensor."""

    x: Tensor | None
    weight: Tensor | None


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        forward: takes x [M, N], weight [N] and eps.
        backward: takes dy [M, N], x, weight, rstd, and two bools: whether dx and dw are wanted.
    """

    forward: Callable[..., Forward]
    backward: Callable[..., Gradients]

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """y alone, [..., N] from x [..., N]."""
        return self.forward(x.reshape(-1, x.shape[-1]), weight, eps).y.view(x.shape)
