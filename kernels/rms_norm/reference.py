"""The definition of `rms_norm`, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .variant import Forward, Gradients, Variant


def forward(x_MN: Tensor, w_N: Tensor, eps: float) -> Forward:
    """y = x r w with r = 1 / sqrt(mean(x^2) + eps), and r."""
    x = x_MN.double()
    rstd = (x.square().mean(-1) + eps).rsqrt()
    y = x * rstd[:, None] * w_N.double()
    return Forward(y.to(x_MN.dtype), rstd.to(torch.promote_types(x_MN.dtype, torch.float32)))


def backward(
    dy_MN: Tensor, x_MN: Tensor, w_N: Tensor, rstd_M: Tensor, wanted: Sequence[bool]
) -> Gradients:
    """dx = r (w dy) - x r^3 / N sum(w dy x);  dw = sum over rows of dy x r."""
    dy, x, w, r = (t.double() for t in (dy_MN, x_MN, w_N, rstd_M[:, None]))
    dx = dw = None
    if wanted[0]:
        along = (w * dy * x).mean(-1, keepdim=True)
        dx = (r * (w * dy) - x * r**3 * along).to(x_MN.dtype)
    if wanted[1]:
        dw = (dy * x * r).sum(0).to(w_N.dtype)
    return Gradients(dx, dw)


rms_norm = Variant(forward, backward)
