"""`grad_norm`: the Euclidean norm of many tensors, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.ops._library import refuse_transforms, register
from crucible_kitchen.ops._refusals import (
    cpu_refuses,
    cuda_refuses,
    several_devices_refuse,
    triton_refuses,
    without_gaps,
)
from crucible_kitchen.ops._table import Kernel, Op


def grad_norm(grads: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all elements of all tensors, for clipping and for finding NaN.

    It is finite exactly if every element is: squares of float32 numbers and their sums cannot
    overflow float64. It does not depend on the number of threads, to the last bit. It has no
    gradient; `torch.nn.utils.get_total_norm` has.

    Args:
        grads: tensors of any shapes, float32, bfloat16 or float16, on one device; one with gaps in
            its memory is copied first.

    Returns:
        A float64 scalar on that device; 0 for no tensors.

    Raises:
        KernelError: no kernel takes the device or a dtype.
    """
    refuse_transforms("grad_norm", takes_lists=True)
    with torch.no_grad():
        norm: Tensor = _grad_norm(grads)
    return norm


_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def _shared_refuses(grads: Sequence[Tensor]) -> str | None:
    """Why a kernel of ours cannot take these, or None."""
    if refused := several_devices_refuse(grads):
        return refused
    if others := {grad.dtype for grad in grads} - _DTYPES:
        return f"gradients must be float32, bfloat16 or float16, got {others.pop()}"
    return None


def _triton_refuses(grads: Sequence[Tensor]) -> str | None:
    if not grads:
        return "there is no tensor to find the device by"
    return triton_refuses(grads[0]) or _shared_refuses(grads)


def _cuda_refuses(grads: Sequence[Tensor]) -> str | None:
    if not grads:
        return "there is no tensor to find the device by"
    return cuda_refuses(grads[0]) or _compiled_refuses(grads)


def _cpu_refuses(grads: Sequence[Tensor]) -> str | None:
    return (cpu_refuses(grads[0]) if grads else None) or _compiled_refuses(grads)


def _compiled_refuses(grads: Sequence[Tensor]) -> str | None:
    if torch.float16 in {grad.dtype for grad in grads}:
        return "gradients must be float32 or bfloat16, got torch.float16"
    return _shared_refuses(grads)


def _cuda(grads: list[Tensor]) -> Tensor:
    device, chunk = grads[0].device, _C.grad_norm_chunk
    chunks = sum(-(-grad.numel() // chunk) for grad in grads)
    partials = torch.empty(chunks, dtype=torch.float64, device=device)
    norm = torch.empty((), dtype=torch.float64, device=device)
    with torch.cuda.device(device):
        _C.grad_norm_cuda(grads, partials, norm)
    return norm


def _cpu(grads: list[Tensor]) -> Tensor:
    norm = _C.grad_norm_cpu(grads, threads=torch.get_num_threads())
    return torch.tensor(norm, dtype=torch.float64)


GRAD_NORM = Op(
    "grad_norm",
    kernels=(
        Kernel("cuda", f"{__name__}:_cuda", _cuda_refuses),
        Kernel(
            "triton",
            "crucible_kitchen.kernels.grad_norm.triton_kernels:grad_norm",
            _triton_refuses,
        ),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.grad_norm.reference:grad_norm",
            several_devices_refuse,
        ),
    ),
)


def _run(grads: Sequence[Tensor]) -> Tensor:
    norm: Tensor = GRAD_NORM.choose(grads)(without_gaps(grads))
    return norm


def _fake(grads: Sequence[Tensor]) -> Tensor:
    return torch.empty((), dtype=torch.float64, device=grads[0].device if grads else None)


_grad_norm = register("grad_norm(Tensor[] grads) -> Tensor", _run, _fake)
