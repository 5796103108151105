"""Reasons to refuse that the kernels of several ops share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import cache

import torch

from crucible_kitchen import _C

# Compute capability: what the kernels are compiled for begins here, and so does bfloat16.
OLDEST_GPU = (8, 0)


@cache
def triton_interpreted() -> bool | None:
    """Whether Triton's interpreter is on, or None where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    # Triton reads it once, when a kernel is decorated; so do we.
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def elsewhere(device: torch.device) -> str:
    """Why a kernel of another kind of device refuses. Made once: a refusal is a part of most calls,
    and nearly none of them is shown."""
    return f"the tensors are on {device.type}"


def cpu_refuses(tensor: torch.Tensor) -> str | None:
    """Why our compiled code for processors cannot run on this tensor's device, or None."""
    return None if tensor.is_cpu else elsewhere(tensor.device)


def cuda_refuses(tensor: torch.Tensor) -> str | None:
    """Why our compiled CUDA code cannot run on this tensor's device here, or None."""
    if not tensor.is_cuda:
        return elsewhere(tensor.device)
    return _why_no_cuda() or gpu_refuses(tensor.device)


@cache
def _why_no_cuda() -> str | None:
    return _C.why_no_cuda() or None


@cache
def gpu_refuses(device: torch.device) -> str | None:
    """Why none of our kernels runs on this GPU, or None; a device does not change."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if (capability := torch.cuda.get_device_capability(device)) < OLDEST_GPU:
        have, oldest = ("sm_{}{}".format(*version) for version in (capability, OLDEST_GPU))
        return f"{device} is {have}; our kernels are for {oldest} and later"
    return None


def triton_refuses(tensor: torch.Tensor) -> str | None:
    """Why Triton cannot run on this tensor's device and dtype here, or None."""
    interpreted = triton_interpreted()
    if interpreted is None:
        return "triton is not installed"
    if interpreted and tensor.dtype == torch.bfloat16:
        return "Triton's interpreter does not support bfloat16"
    if not interpreted and not tensor.is_cuda:
        return elsewhere(tensor.device)
    return None if interpreted else gpu_refuses(tensor.device)


def several_devices_refuse(*lists: Sequence[torch.Tensor]) -> str | None:
    """Why no kernel takes lists of tensors that are not all on one device, or None."""
    devices = {tensor.device for tensors in lists for tensor in tensors}
    if len(devices) <= 1:
        return None
    return f"the tensors are on several devices, {', '.join(sorted(map(str, devices)))}"


def same_layout_refuses(
    first: Sequence[torch.Tensor], *others: Sequence[torch.Tensor]
) -> str | None:
    """Why kernels that walk equal shapes as flat memory cannot take these, or None.

    Args:
        first: tensors that decide the layout.
        *others: as many tensors each, with the shapes of the first.
    """
    # Hundreds of tensors, nearly always contiguous: map stays in C.
    contiguous = torch.Tensor.is_contiguous
    if all(map(contiguous, first)) and all(all(map(contiguous, other)) for other in others):
        return None
    for tensors in zip(first, *others, strict=True):
        orders = [_order(tensor) for tensor in tensors]
        if None in orders:
            return f"a tensor of shape {list(tensors[0].shape)} has gaps in memory"
        if any(order != orders[0] for order in orders):
            return f"tensors of shape {list(tensors[0].shape)} do not share one order in memory"
    return None


def _order(tensor: torch.Tensor) -> list[int] | None:
    """Dimensions from the fastest to the slowest in memory, or None if it has gaps."""
    strides = tensor.stride()
    order = sorted((d for d, n in enumerate(tensor.shape) if n != 1), key=lambda d: strides[d])
    dense = 1
    for dimension in order:
        if strides[dimension] != dense and tensor.numel():
            return None
        dense *= tensor.shape[dimension]
    return order


def in_order_of(
    first: Sequence[torch.Tensor], others: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor]:
    """Each of `others` in the order that its like in `first` has in memory; copied if it was not.

    Args:
        first: tensors without gaps.
        others: as many, of the same shapes, in any order and with any gaps.
    """
    contiguous = torch.Tensor.is_contiguous
    if all(map(contiguous, first)) and all(map(contiguous, others)):
        return others
    return [
        other
        if other.stride() == like.stride()
        else torch.empty_like(like, dtype=other.dtype).copy_(other)
        for like, other in zip(first, others, strict=True)
    ]


def without_gaps(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Tensors that fill their memory in some order of dimensions; copied if they did not."""
    if all(map(torch.Tensor.is_contiguous, tensors)):
        return tensors
    return [tensor.contiguous() if _order(tensor) is None else tensor for tensor in tensors]
