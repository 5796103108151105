"""The norm as torch's clipping computes it, on the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def calls(args: tuple[list[Tensor]], options: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """`torch.nn.utils.get_total_norm`, which sums in the gradients' dtype."""
    return {"torch": lambda: torch.nn.utils.get_total_norm(args[0])}
