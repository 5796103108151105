"""A linear of PEFT with LoRA, computed in one pass by `ops.lora_linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crucible_kitchen import ops

# Hooks of a module that is not called do not run.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def lora_forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What PEFT's layer gives; NotImplemented while it is merged, disabled, or anything else.

    Args:
        layer: PEFT's ``lora.Linear``.
        x: [..., K].
        args, kwargs: PEFT's own, such as ``adapter_names``; with any of them it is PEFT's turn.
    """
    if args or kwargs or why_not(layer) is not None:
        return NotImplemented
    base, name = layer.base_layer, layer.active_adapters[0]
    autocast = torch.is_autocast_enabled(x.device.type)
    if x.dtype != base.weight.dtype and not autocast:
        return NotImplemented
    if not (torch.compiler.is_compiling() or ops.OPS["lora_linear"].serves(x)):
        return NotImplemented
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return ops.lora_linear(x, base.weight, a, b, layer.scaling[name], base.bias)


def why_not(layer: Any) -> str | None:
    """Why `ops.lora_linear` would not compute what the layer computes now, or None."""
    if type(layer.base_layer) is not nn.Linear:
        kind = type(layer.base_layer).__name__
        return f"it is LoRA on {kind}: quantised, or no linear"
    if len(layer.active_adapters) != 1 or layer.active_adapters[0] not in layer.lora_A:
        return f"its active adapters are {', '.join(layer.active_adapters) or 'none'}, not one"
    return _why_not_now(layer, layer.active_adapters[0])


def _why_not_now(layer: Any, name: str) -> str | None:
    """`why_not` for a layer with one active adapter on a plain linear."""
    base, a, b = layer.base_layer, layer.lora_A[name], layer.lora_B[name]
    if not base.weight.is_floating_point() or type(base.weight) is not nn.Parameter:
        return "its weight is quantised or sharded"
    if base.weight.requires_grad:
        return "its own weight is trained too; lora_linear wants it frozen"
    if name in layer.lora_variant:
        return f"it is {type(layer.lora_variant[name]).__name__}, not plain LoRA"
    if type(a) is not nn.Linear or type(b) is not nn.Linear or b.bias is not None:
        return "its lora_B has a bias (lora_bias=True), or is no linear"
    if layer.fan_in_fan_out:
        return "it keeps its weight transposed (fan_in_fan_out=True)"
    dropout = layer.lora_dropout[name]
    # Under evaluation dropout does nothing, but what is reported is what training runs.
    if not isinstance(dropout, nn.Identity) and getattr(dropout, "p", 1.0) > 0:
        return f"lora_dropout is {getattr(dropout, 'p', '?')}; set it to 0"
    if layer.disable_adapters:
        return "its adapters are disabled"
    if layer.merged:
        return "its update is merged into its weight"
    if any(getattr(module, hooks) for module in (base, a, b) for hooks in _HOOKS):
        return "a hook is on one of its linears"
    return None
