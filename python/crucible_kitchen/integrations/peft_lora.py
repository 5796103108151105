"""A linear of PEFT with LoRA, computed in one pass by `ops.lora_linear`.

PEFT's `lora_dropout` draws a mask of x from torch's generator in every call. Ours draws one number
there, the seed of a mask that the op computes: `torch.manual_seed` makes a run repeatable, and a
layer that activation checkpointing runs again sees the mask of its first pass. The masks are others
than PEFT's; each element is dropped with the same probability.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crucible_kitchen import ops

# PEFT's name of what makes a LoRA layer DoRA.
_DORA = "DoraLinearVariant"
# Hooks of a module that is not called do not run.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_lora(module: nn.Module) -> bool:
    """Whether it is a layer of PEFT with LoRA in it, without importing PEFT."""
    return type(module).__module__.startswith("peft.") and hasattr(module, "lora_A")


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
    if not (torch.compiler.is_compiling() or ops.OPS["lora_linear"].serves(x)):
        return NotImplemented
    if x.dtype != base.weight.dtype and not torch.is_autocast_enabled(x.device.type):
        return NotImplemented
    dropout = share_dropped(layer)
    if dropout > 0 and torch.compiler.is_compiling():
        return NotImplemented  # a seed is a number, and a compiled graph holds none that changes
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    if name in layer.lora_variant:
        magnitude = layer.lora_magnitude_vector[name].weight
        return ops.dora_linear(x, base.weight, a, b, magnitude, layer.scaling[name], base.bias)
    seed = int(torch.randint(2**63 - 1, ())) if dropout > 0 else 0
    return ops.lora_linear(
        x, base.weight, a, b, layer.scaling[name], base.bias, dropout=dropout, seed=seed
    )


def share_dropped(layer: Any, *, training: bool | None = None) -> float:
    """The share of x that the update of a layer with one active adapter does not see.

    Args:
        training: as if the layer were in training, or in evaluation; None: as it is.
    """
    drop = layer.lora_dropout[layer.active_adapters[0]]
    if not isinstance(drop, nn.Dropout):
        return 0.0
    return drop.p if (drop.training if training is None else training) else 0.0


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
    variant = type(layer.lora_variant[name]).__name__ if name in layer.lora_variant else None
    if variant not in (None, _DORA):
        return f"it is {variant}, neither plain LoRA nor DoRA"
    if type(a) is not nn.Linear or type(b) is not nn.Linear or b.bias is not None:
        return "its lora_B has a bias (lora_bias=True), or is no linear"
    if layer.fan_in_fan_out:
        return "it keeps its weight transposed (fan_in_fan_out=True)"
    drop = layer.lora_dropout[name]
    # Under evaluation dropout does nothing, but what is reported is what training runs.
    if type(drop) not in (nn.Dropout, nn.Identity):
        return f"its lora_dropout is {type(drop).__name__}, not torch's Dropout"
    if share_dropped(layer, training=True) >= 1:
        return "its lora_dropout is 1, which leaves nothing of the update"
    if variant == _DORA and share_dropped(layer, training=True) > 0:
        return "it is DoRA with lora_dropout, whose mask PEFT lets the frozen weight see too"
    if layer.disable_adapters:
        return "its adapters are disabled"
    if layer.merged:
        return "its update is merged into its weight"
    if any(getattr(module, hooks) for module in (base, a, b) for hooks in _HOOKS):
        return "a hook is on one of its linears"
    return None
