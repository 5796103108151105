"""A frozen layer without an update, in bfloat16, on processors that multiply integers faster.

Where these have no product of bfloat16, torch's takes up to five times what float32's does. What
runs is `lora_linear`'s kernel over the panels that it keeps of a weight.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.ops._library import direct, register, transformed
from crucible_kitchen.ops._lora_linear_cpu import panels_of, rows_together
from crucible_kitchen.ops._table import takes_processors

# With tiles (AMX) torch multiplies bfloat16 faster than vectors do integers.
PAYS: Final = _C.lora_linear_multiplies_int16() and not torch.cpu._is_amx_tile_supported()
_PLAIN = (Tensor, torch.nn.Parameter)


def takes(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `frozen_linear` computes these, and faster than torch does."""
    return (
        PAYS
        and x.dtype == weight.dtype == torch.bfloat16
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and x.is_cpu
        and weight.is_cpu
        and not weight.requires_grad
        and (bias is None or not bias.requires_grad)
        and takes_processors()
        and not transformed()
    )


def frozen_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    straight: bool = False,
    wide: bool = False,
) -> Tensor:
    """y = x W^T (+ bias), differentiable in x, for what `takes` says yes to.

    Args:
        x: [..., K], bfloat16.
        weight: W [N, K], bfloat16. It is kept packed as `ops.lora_linear` keeps it.
        bias: [N], bfloat16 or float32.
        straight: y = x W, with W [K, N].
        wide: y as it was summed, in float32.

    Returns:
        y, [..., N], bfloat16, rounded once; or float32.
    """
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    run = _run if direct(x, weight, bias) else _frozen_linear
    y: Tensor = run(rows, weight, bias, straight, wide)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[1])


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, straight: bool, wide: bool) -> Tensor:
    y = _fake(x, weight, bias, straight, wide)
    _C.lora_linear_forward(
        rows_together(x),
        (panels_of(weight, backward=straight),),
        () if bias is None else (bias.contiguous(),),
        (y,),
        # No updates: rows, A, B, scales, x A^T, dropout and seeds.
        (),
        (),
        (),
        (),
        None,
        0.0,
        (),
        torch.get_num_threads(),
    )
    return y


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, straight: bool, wide: bool) -> Tensor:
    dtype = torch.float32 if wide else x.dtype
    return x.new_empty(len(x), weight.shape[1 if straight else 0], dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, _, ctx.straight, _ = inputs
    ctx.save_for_backward(weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (weight,) = ctx.saved_tensors
    dx = _frozen_linear(dy.to(weight.dtype), weight, None, not ctx.straight, False)
    return dx, None, None, None, None


_frozen_linear = register(
    "frozen_linear(Tensor x, Tensor weight, Tensor? bias, bool straight, bool wide) -> Tensor y",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    backward_again=_backward,
)
