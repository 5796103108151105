"""The definition of `rope`, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .variant import Variant


def rotate(x_TAD: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """Each pair (i, i + D / 2) of a head turned by its token's angle, or back by it."""
    x1, x2 = x_TAD.double().chunk(2, dim=-1)
    c, s = cos.double()[:, None], sin.double()[:, None]
    s = -s if back else s
    return torch.cat((x1 * c - x2 * s, x2 * c + x1 * s), dim=-1).to(x_TAD.dtype)


rope = Variant(rotate)
