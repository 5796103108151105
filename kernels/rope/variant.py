"""What every backend of `rope` brings: the rotation, either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        rotate: from x [T, A, D], cos and sin [T, D / 2], and whether to turn back, to y like x.
    """

    rotate: Callable[[Tensor, Tensor, Tensor, bool], Tensor]

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The rotation forward."""
        return self.rotate(x, cos, sin, False)
