"""torch's own AdamW on the same tensors, fused and foreach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def calls(
    args: tuple[list[Tensor], ...], options: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """One optimizer step each; bfloat16 parameters have bfloat16 moments there."""
    params, grads = args[:2]
    constants = {name: options[name] for name in ("lr", "betas", "eps", "weight_decay")}

    def step_of(**how: bool) -> Callable[[], object]:
        mine = [torch.nn.Parameter(p.clone()) for p in params]
        for param, grad in zip(mine, grads, strict=True):
            param.grad = grad
        return torch.optim.AdamW(mine, **constants, **how).step

    return {"torch fused": step_of(fused=True), "torch foreach": step_of(foreach=True)}
