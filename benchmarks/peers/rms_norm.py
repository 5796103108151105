"""The same norm by torch and as models write it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def calls(
    args: tuple[Tensor, Tensor, float], options: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """`F.rms_norm`, and transformers' five calls, forward and backward."""
    x, weight = (t.detach().requires_grad_() for t in args[:2])
    eps = args[2]

    def written_out() -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return weight * normed.to(x.dtype)

    def both_ways(forward: Callable[[], Tensor]) -> object:
        y = forward()
        return torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return {
        "torch": lambda: both_ways(lambda: functional.rms_norm(x, weight.shape, weight, eps)),
        "written out": lambda: both_ways(written_out),
    }
