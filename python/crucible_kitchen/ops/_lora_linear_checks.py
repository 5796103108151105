"""Whether a frozen layer, its rows and its updates fit each other, and what is wrong if not."""

from __future__ import annotations

import torch
from torch import Tensor


def check_lora_linear(
    op: str, x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, bias: Tensor | None
) -> None:
    """Raises ValueError or TypeError, in the name of `op`, for tensors that do not fit."""
    if not _fits(x, weight, lora_a, lora_b, bias):
        raise _misfit(op, x, weight, lora_a, lora_b, bias)


def _fits(x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, bias: Tensor | None) -> bool:
    """In one expression: it is asked of every call, and of each update of a batch."""
    of_w, of_a, of_b = weight.shape, lora_a.shape, lora_b.shape
    device, dtype = weight.device, weight.dtype
    either = (dtype, torch.float32)
    return (
        len(of_w) == len(of_a) == len(of_b) == 2
        and of_a[0] >= 1
        and x.shape[-1:] == of_a[1:] == of_w[1:]
        and of_b == (of_w[0], of_a[0])
        and x.dtype == dtype
        and (lora_a.dtype in either and lora_b.dtype in either)
        and x.device == lora_a.device == lora_b.device == device
        and not weight.requires_grad
        and (
            bias is None
            or (bias.shape == of_w[:1] and bias.dtype in either and bias.device == device)
        )
    )


def _misfit(
    op: str, x: Tensor, weight: Tensor, lora_a: Tensor, lora_b: Tensor, bias: Tensor | None
) -> Exception:
    """What is wrong with tensors that do not fit."""
    if x.ndim == 0 or weight.ndim != 2 or lora_a.ndim != 2 or lora_a.shape[0] == 0:
        for name, tensor, letters, ndim in (
            ("x", x, "[..., K]", max(x.ndim, 1)),
            ("weight", weight, "[N, K]", 2),
            ("lora_a", lora_a, "[R, K] with R >= 1", 2),
        ):
            if tensor.ndim != ndim or (tensor is lora_a and lora_a.shape[0] == 0):
                return ValueError(f"{op}: {name} must have shape {letters}, {_got(tensor)}")
    (N, K), R = weight.shape, lora_a.shape[0]
    wanted: list[tuple[str, Tensor, str, tuple[int, ...]]] = [
        ("x", x, "[..., K]", (*x.shape[:-1], K)),
        ("lora_a", lora_a, "[R, K]", (R, K)),
        ("lora_b", lora_b, "[N, R]", (N, R)),
    ]
    if bias is not None:
        wanted.append(("bias", bias, "[N]", (N,)))
    for name, tensor, letters, shape in wanted:
        if tensor.shape != shape:
            return ValueError(
                f"{op}: {name} must have shape {letters} = {list(shape)}, {_got(tensor)}"
            )
        if tensor.device != weight.device:
            return ValueError(
                f"{op}: {name} must be on weight's device, {weight.device}, got {tensor.device}"
            )
        if tensor.dtype not in (weight.dtype, torch.float32) or (
            tensor is x and x.dtype != weight.dtype
        ):
            also = "" if tensor is x or weight.dtype == torch.float32 else " or torch.float32"
            return TypeError(
                f"{op}: {name} must have weight's dtype, {weight.dtype}{also}, got {tensor.dtype}"
            )
    return ValueError(
        f"{op}: weight must be frozen, got one that requires a gradient; "
        "call weight.requires_grad_(False)"
    )


def check_dropout(op: str, dropout: float) -> None:
    """Raises ValueError unless it is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{op}: dropout must be in [0, 1), got {dropout}")


def _got(tensor: Tensor) -> str:
    return f"got {list(tensor.shape)} ({tensor.dtype})"
