"""`rms_norm`: rows divided by their root mean square, times a weight, in one pass each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.rms_norm.builds import not_built
from crucible_kitchen.kernels.rms_norm.variant import Forward, Gradients, Variant
from crucible_kitchen.ops._library import direct, refuse_transforms, register
from crucible_kitchen.ops._recomputing import note
from crucible_kitchen.ops._refusals import cpu_refuses
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight along the last dimension, differentiable in both.

    Args:
        x: [..., N], N at least 1, float32, bfloat16 or float16.
        weight: [N], in x's dtype or float32; one that is frozen costs no gradient.
        eps: added to the mean of the squares, in their units.

    Returns:
        y, [..., N], in x's dtype; float32 inside, rounded once.

    Raises:
        ValueError: shapes or devices that do not fit.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: Zhang and Sennrich 2019, eq. 4, https://arxiv.org/abs/1910.07467
    """
    if direct(x, weight) and _C.rms_norm_fits(x, weight):
        return _cpu_y(x, weight, eps)
    refuse_transforms("rms_norm")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"rms_norm: x must have shape [..., N] with N >= 1, got {list(x.shape)} ({x.dtype})"
        )
    if weight.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: weight must have shape [N] = [{x.shape[-1]}], "
            f"got {list(weight.shape)} ({weight.dtype})"
        )
    if weight.device != x.device:
        raise ValueError(f"rms_norm: weight must be on x's device, {x.device}, got {weight.device}")
    if not x.dtype.is_floating_point or weight.dtype not in (x.dtype, torch.float32):
        raise TypeError(
            "rms_norm: x must be floating point and weight have its dtype or torch.float32, "
            f"got {x.dtype} and {weight.dtype}"
        )
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    y: Tensor = _rms_norm(rows, weight, eps)[0]
    y = y if x.ndim == 2 else y.view(x.shape)
    note(y, _again, rows, weight, eps)
    return y


# A choice looks at x's dtype and device only: its place may hold dy.
def _cpu_refuses(x: Tensor, *others: Any) -> str | None:
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"x is {x.dtype}; it takes float32 and bfloat16"
    return cpu_refuses(x)


def _built_refuses(x: Tensor, weight: Tensor | None = None, *others: Any) -> str | None:
    if weight is not None and weight.dtype != x.dtype:
        return f"weight is {weight.dtype} and x {x.dtype}"
    reason: str | None = not_built(x.shape[-1])
    return reason


def _cpu_y(x: Tensor, weight: Tensor, eps: float, rstd: Tensor | None = None) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _C.rms_norm_forward(x, weight.contiguous(), eps, y, rstd, torch.get_num_threads())
    return y


def _cpu_forward(x: Tensor, weight: Tensor, eps: float) -> Forward:
    rstd = torch.empty(x.shape[0], dtype=torch.float32)
    return Forward(_cpu_y(x, weight, eps, rstd), rstd)


def _cpu_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, wanted: Sequence[bool]
) -> Gradients:
    dy, x, weight = dy.contiguous(), x.contiguous(), weight.contiguous()
    dx = torch.empty_like(x) if wanted[0] else None
    dw = torch.empty_like(weight) if wanted[1] else None
    _C.rms_norm_backward(dy, x, weight, rstd.contiguous(), dx, dw, torch.get_num_threads())
    return Gradients(dx, dw)


_cpu = Variant(_cpu_forward, _cpu_backward)

RMS_NORM = Op(
    "rms_norm",
    kernels=(
        *triton_kernels("rms_norm", _built_refuses),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.rms_norm.reference:rms_norm",
            lambda *args: None,
        ),
    ),
)


def _run(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    kernel: Any = RMS_NORM.choose(x, weight)  # a Variant
    made: Forward = kernel.forward(x, weight, eps)
    return made


def _again(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _run(x, weight, eps)[0]


def _fake(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rstd_dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=rstd_dtype)


def _run_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    kernel: Any = RMS_NORM.choose(dy, weight)  # a Variant
    made: Gradients = kernel.backward(dy, x, weight, rstd, wanted)
    return tuple(dy.new_empty(0) if part is None else part for part in made)


def _fake_backward(
    dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, ...]:
    return (
        x.new_empty(x.shape) if wanted[0] else dy.new_empty(0),
        weight.new_empty(weight.shape) if wanted[1] else dy.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    rstd = output[1]
    ctx.mark_non_differentiable(rstd)
    ctx.save_for_backward(x, weight, rstd)


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = tuple(ctx.needs_input_grad[:2])
    made = _rms_norm_backward(dy, *ctx.saved_tensors, wanted)
    dx, dw = (part if want else None for part, want in zip(made, wanted, strict=True))
    return dx, dw, None


_rms_norm = register(
    "rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor rstd)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_rms_norm_backward = register(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor rstd, bool[] wanted) "
    "-> (Tensor dx, Tensor dw)",
    _run_backward,
    _fake_backward,
)
