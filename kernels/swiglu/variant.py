"""What every backend of `swiglu` brings: a forward, and a backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        forward: from gate and up, of one shape and dtype, to y of the same.
        backward: from dy, gate and up to the gradients of gate and up.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """The forward alone."""
        return self.forward(gate, up)
