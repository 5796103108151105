"""What `adamw_step` asks of its arguments: the errors it raises, and why its kernels refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.adamw_step.eight_bit import BLOCK
from crucible_kitchen.ops._refusals import (
    cpu_refuses,
    cuda_refuses,
    same_layout_refuses,
    several_devices_refuse,
    triton_refuses,
)


def check_constants(
    params: Sequence[Tensor], steps: Sequence[int], betas: tuple[float, float]
) -> None:
    """Raises ValueError for steps or betas out of range."""
    if len(steps) != len(params):
        raise ValueError(
            f"adamw_step: step must be one number or {len(params)}, one a tensor, got {len(steps)}"
        )
    if steps and min(steps) < 1:
        raise ValueError(f"adamw_step: step must be counted from 1, got {min(steps)}")
    for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"adamw_step: {name} must be in [0, 1), got {beta}")


def check_shapes(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
) -> None:
    """Raises ValueError unless each list has a tensor of each parameter's shape."""
    wanted = list(map(Tensor.size, params))
    named = (("grads", grads), ("exp_avgs", exp_avgs), ("exp_avg_sqs", exp_avg_sqs))
    for name, tensors in named:
        if (got := list(map(Tensor.size, tensors))) != wanted:
            raise ValueError(_mismatch(name, wanted, got))


def _mismatch(name: str, wanted: list[torch.Size], got: list[torch.Size]) -> str:
    if len(got) != len(wanted):
        return f"adamw_step: {name} must have {len(wanted)} tensors, as params, got {len(got)}"
    i = next(i for i, (want, have) in enumerate(zip(wanted, got, strict=True)) if want != have)
    return (
        f"adamw_step: {name}[{i}] must have the shape of params[{i}], {list(wanted[i])}, "
        f"got {list(got[i])}"
    )


def check_scales(params: Sequence[Tensor], *scales: Sequence[Tensor]) -> None:
    if not any(scales):
        return
    wanted = [(-(-param.numel() // BLOCK),) for param in params]
    for name, given in zip(("exp_avg_scales", "exp_avg_sq_scales"), scales, strict=True):
        if (got := [tuple(scale.shape) for scale in given]) != wanted:
            raise ValueError(
                f"adamw_step: {name} must have one number for each {BLOCK} elements of each of "
                f"{len(params)} parameters, got shapes {got}, not {wanted}"
            )


def check_norm(norm: Tensor | None, max_norm: float) -> None:
    if not max_norm >= 0:
        raise ValueError(f"adamw_step: max_norm must be 0 or more, got {max_norm}")
    if norm is None and max_norm:
        raise ValueError(f"adamw_step: norm must be given with max_norm = {max_norm}, got None")
    if norm is not None and (norm.ndim or norm.dtype != torch.float64):
        raise ValueError(
            f"adamw_step: norm must be a float64 scalar, got {norm.dtype} of shape "
            f"{list(norm.shape)}"
        )


_NARROW = {torch.float32, torch.bfloat16}
_CODES = {torch.uint8}


def _dense_refuses(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    exp_avg_scales: Sequence[Tensor] = (),
    exp_avg_sq_scales: Sequence[Tensor] = (),
    norm: Tensor | None = None,
    alike: bool = False,
    **_: Any,
) -> str | None:
    """Why a kernel that walks flat memory cannot take these, or None.

    `alike` says that the first four lists agree in their places (`_C.alike_on_cpu`).
    """
    # Hundreds of tensors: one pass for each question.
    moments, scales = (*exp_avgs, *exp_avg_sqs), (*exp_avg_scales, *exp_avg_sq_scales)
    guard = () if norm is None else (norm,)
    placed = (params[:1],) if alike else (params, grads, moments)
    if refused := several_devices_refuse(*placed, scales, guard):
        return refused
    for name, tensors in (("params", params), ("grads", grads)):
        if others := {tensor.dtype for tensor in tensors} - _NARROW:
            return f"{name} must be float32 or bfloat16, got {others.pop()}"
    kept, allowed = {tensor.dtype for tensor in moments}, _CODES if scales else _NARROW
    if len(kept) > 1 or kept - allowed:
        which = "uint8 with scales" if scales else "all float32 or all bfloat16 without scales"
        got = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in kept))
        return f"exp_avgs and exp_avg_sqs must be {which}, got {got}"
    if others := {scale.dtype for scale in scales} - {torch.float32}:
        return f"the scales must be float32, got {others.pop()}"
    return None if alike else same_layout_refuses(params, exp_avgs, exp_avg_sqs)


def refuse_triton(params: Sequence[Tensor], *others: Any, **options: Any) -> str | None:
    if not params:
        return "there is no tensor to find the device by"
    if others and others[1] and (kept := others[1][0].dtype) != torch.float32:
        bits = "8 bits" if kept == torch.uint8 else "bfloat16"
        return f"the moments are in {bits}; Triton's kernel has them in float32"
    return triton_refuses(params[0]) or _dense_refuses(params, *others, **options)


def refuse_cuda(params: Sequence[Tensor], *others: Any, **options: Any) -> str | None:
    if not params:
        return "there is no tensor to find the device by"
    return cuda_refuses(params[0]) or _dense_refuses(params, *others, **options)


def refuse_cpu(params: Sequence[Tensor], *others: Any, **options: Any) -> str | None:
    refused = cpu_refuses(params[0]) if params else None
    return refused or _dense_refuses(params, *others, **options)
