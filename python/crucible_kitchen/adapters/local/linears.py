"""Frozen linears without an update, and the head, by our kernel where that is faster."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crucible_kitchen.nn import LoraLinear
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward
from crucible_kitchen.ops import _frozen_linear

# Exactly these, and whether they multiply by the weight as it lies (GPT-2's) or by its transpose.
_KINDS: Final[dict[type[nn.Module], bool]] = {nn.Linear: False, Conv1D: True}


def fuse(model: Any) -> None:
    """Let our kernel multiply by the weights of a model's linears where it is faster than torch's,
    in place; again, where its head has got an update since.

    Logits are float32 then: as bfloat16 they would be off by up to 0.2 nat.

    Args:
        model: of transformers.
    """
    switch, head = Switch(), model.get_output_embeddings()
    for module in model.modules():
        if type(module) in _KINDS and not is_replaced(module):
            put_forward(module, _logits if module is head else _forward, switch)
    if isinstance(head, LoraLinear) and not is_replaced(head):
        put_forward(head, _trained_logits, switch)


def _forward(linear: Any, x: Tensor, wide: bool = False) -> Any:
    weight, bias = linear.weight, linear.bias
    if not _frozen_linear.takes(x, weight, bias):
        return NotImplemented
    straight = _KINDS.get(type(linear), False)
    return _frozen_linear.frozen_linear(x, weight, bias, straight=straight, wide=wide)


def _logits(head: Any, hidden: Tensor) -> Any:
    return _forward(head, hidden, wide=True)


def _trained_logits(head: LoraLinear, hidden: Tensor, part: int = 0) -> Any:
    """Of a head with an update of the plain kind, whose part is float32 as A and B are."""
    drops = head.training and head.dropout > 0
    if drops or head.merged or head.magnitude is not None or head.sharing is not None:
        return NotImplemented
    rows = hidden.reshape(-1, hidden.shape[-1])
    frozen = _forward(head, rows, wide=True)
    if frozen is NotImplemented:
        return NotImplemented
    low = head.scale * (rows.float() @ head.lora_a.T)
    return torch.addmm(frozen, low, head.lora_b.T).view(*hidden.shape[:-1], -1)
