"""`swiglu`: the elementwise half of a gated MLP, in one pass each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.swiglu.builds import not_built
from crucible_kitchen.kernels.swiglu.variant import Variant
from crucible_kitchen.ops._library import direct, refuse_transforms, register
from crucible_kitchen.ops._recomputing import note
from crucible_kitchen.ops._refusals import cpu_refuses
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, differentiable in both; only gate and up are saved.

    Args:
        gate: any shape, float32, bfloat16 or float16.
        up: of gate's shape, dtype and device.

    Returns:
        Of the same shape and dtype; float32 inside, rounded once.

    Raises:
        ValueError: shapes or devices differ.
        TypeError: dtypes differ, or are not floating.
        KernelError: no kernel takes the device or the dtype.

    Source: Shazeer 2020, eq. 6, https://arxiv.org/abs/2002.05202
    """
    if direct(gate, up) and _C.swiglu_fits(gate, up):
        return _cpu_forward(gate, up)
    refuse_transforms("swiglu")
    if up.shape != gate.shape:
        raise ValueError(
            f"swiglu: up must have gate's shape, {list(gate.shape)}, got {list(up.shape)}"
        )
    if up.device != gate.device:
        raise ValueError(f"swiglu: up must be on gate's device, {gate.device}, got {up.device}")
    if up.dtype != gate.dtype or not gate.dtype.is_floating_point:
        raise TypeError(
            f"swiglu: gate and up must have one floating dtype, got {gate.dtype} and {up.dtype}"
        )
    y: Tensor = _swiglu(gate, up)
    note(y, _run, gate, up)
    return y


def _cpu_refuses(gate: Tensor, *others: Tensor) -> str | None:
    if gate.dtype not in (torch.float32, torch.bfloat16):
        return f"gate is {gate.dtype}; it takes float32 and bfloat16"
    return cpu_refuses(gate)


def _built_refuses(gate: Tensor, *others: Tensor) -> str | None:
    reason: str | None = not_built(gate.numel())
    return reason


def _cpu_forward(gate: Tensor, up: Tensor) -> Tensor:
    gate = gate.contiguous()
    y = torch.empty_like(gate)
    _C.swiglu_forward(gate, up.contiguous(), y, torch.get_num_threads())
    return y


def _cpu_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    gate = gate.contiguous()
    dgate, dup = torch.empty_like(gate), torch.empty_like(gate)
    threads = torch.get_num_threads()
    _C.swiglu_backward(dy.contiguous(), gate, up.contiguous(), dgate, dup, threads)
    return dgate, dup


_cpu = Variant(_cpu_forward, _cpu_backward)

SWIGLU = Op(
    "swiglu",
    kernels=(
        *triton_kernels("swiglu", _built_refuses),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.swiglu.reference:swiglu",
            lambda *tensors: None,
        ),
    ),
)


def _run(gate: Tensor, up: Tensor) -> Tensor:
    kernel: Any = SWIGLU.choose(gate, up)  # a Variant
    y: Tensor = kernel.forward(gate, up)
    return y


def _fake(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


def _run_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    kernel: Any = SWIGLU.choose(gate, up)  # a Variant
    made: tuple[Tensor, Tensor] = kernel.backward(dy, gate, up)
    return made


def _fake_backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    made: tuple[Tensor, Tensor] = _swiglu_backward(dy, *ctx.saved_tensors)
    return made


_swiglu = register(
    "swiglu(Tensor gate, Tensor up) -> Tensor",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_swiglu_backward = register(
    "swiglu_backward(Tensor dy, Tensor gate, Tensor up) -> (Tensor dgate, Tensor dup)",
    _run_backward,
    _fake_backward,
)
