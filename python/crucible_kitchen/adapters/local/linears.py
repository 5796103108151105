"""Frozen linears without an update, the head among them, by our kernel where that is faster."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward
from crucible_kitchen.ops import _frozen_linear

# Exactly these, and whether they multiply by the weight as it lies (GPT-2's) or by its transpose.
_KINDS: Final[dict[type[nn.Module], bool]] = {nn.Linear: False, Conv1D: True}


def fuse(model: nn.Module) -> None:
    """Let our kernel multiply by the weights of a model's linears where it is faster than torch's,
    in place."""
    switch = Switch()
    for module in model.modules():
        if type(module) in _KINDS and not is_replaced(module):
            put_forward(module, _forward, switch)


def _forward(linear: Any, x: Tensor) -> Any:
    weight, bias = linear.weight, linear.bias
    if not _frozen_linear.takes(x, weight, bias):
        return NotImplemented
    return _frozen_linear.frozen_linear(x, weight, bias, straight=_KINDS[type(linear)])
