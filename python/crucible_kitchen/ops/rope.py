"""`rope`: rotary position embedding of the heads of queries or keys, in one pass each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.rope.builds import not_built
from crucible_kitchen.kernels.rope.variant import Variant
from crucible_kitchen.ops._library import refuse_transforms, register
from crucible_kitchen.ops._refusals import cpu_refuses
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D / 2) of a head by its token's angle; differentiable in `x`.

    Args:
        x: queries or keys, [T, A, D] with A heads of D elements, float32, bfloat16 or float16.
        cos: cosines of position times frequency, [T, D / 2], float32; no gradient.
        sin: sines of the same.

    Returns:
        [T, A, D] in x's dtype; float32 inside, rounded once.

    Raises:
        ValueError: shapes or devices that do not fit, or an odd D.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: Su et al. 2021, eq. 34, https://arxiv.org/abs/2104.09864, in Llama's order of pairs
    """
    refuse_transforms("rope")
    if x.ndim != 3 or x.shape[-1] % 2:
        raise ValueError(f"rope: x must have shape [T, A, D] with an even D, got {list(x.shape)}")
    if not x.dtype.is_floating_point:
        raise TypeError(f"rope: x must be floating point, got {x.dtype}")
    wanted = [x.shape[0], x.shape[2] // 2]
    for name, angles in (("cos", cos), ("sin", sin)):
        if list(angles.shape) != wanted:
            raise ValueError(
                f"rope: {name} must have shape [T, D / 2] = {wanted}, got {list(angles.shape)}"
            )
        if angles.dtype != torch.float32:
            raise TypeError(f"rope: {name} must be torch.float32, got {angles.dtype}")
        if angles.device != x.device:
            raise ValueError(f"rope: {name} must be on x's device, {x.device}, got {angles.device}")
    y: Tensor = _rope(x, cos, sin, False)
    return y


def _cpu_refuses(x: Tensor, *angles: Tensor) -> str | None:
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"x is {x.dtype}; it takes float32 and bfloat16"
    return cpu_refuses(x)


def _built_refuses(x: Tensor, *angles: Tensor) -> str | None:
    reason: str | None = not_built(x.shape[-1])
    return reason


def _cpu_rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _C.rope_rotate(x, cos.contiguous(), sin.contiguous(), back, y, torch.get_num_threads())
    return y


_cpu = Variant(_cpu_rotate)

ROPE = Op(
    "rope",
    kernels=(
        *triton_kernels("rope", _built_refuses),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel("reference", "crucible_kitchen.kernels.rope.reference:rope", lambda *tensors: None),
    ),
)


def _run(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    kernel: Any = ROPE.choose(x, cos, sin)  # a Variant
    y: Tensor = kernel.rotate(x, cos, sin, back)
    return y


def _fake(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin = ctx.saved_tensors
    return _rope(dy, cos, sin, not ctx.back), None, None, None


_rope = register(
    "rope(Tensor x, Tensor cos, Tensor sin, bool back) -> Tensor",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
