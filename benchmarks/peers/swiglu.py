"""The same product as two torch calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def calls(args: tuple[Tensor, Tensor], options: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """`silu(gate) * up`, forward and backward."""
    gate, up = (t.detach().requires_grad_() for t in args)

    def eager() -> object:
        y = functional.silu(gate) * up
        return torch.autograd.grad(y, (gate, up), torch.ones_like(y))

    return {"torch": eager}
