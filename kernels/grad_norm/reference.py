"""The norm, by the book, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """The root of the sum of the squares of every element of every tensor: a float64 scalar."""
    total = torch.zeros((), dtype=torch.float64, device=grads[0].device if grads else None)
    for grad in grads:
        total += grad.double().square().sum()
    return total.sqrt()
