"""Host side of the Triton kernels of `swiglu`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.launcher import (
    DTYPES,
    Launcher,
    architecture_of,
    cdiv,
    dense,
)

from . import builds
from .variant import Variant


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_backward, launch))


def _forward(launch: Launcher, gate: Tensor, up: Tensor) -> Tensor:
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    _start(launch, "swiglu.forward", dense(gate), dense(up), y)
    return y


def _backward(launch: Launcher, dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    dgate, dup = (torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) for _ in range(2))
    _start(launch, "swiglu.backward", dense(dy), dense(gate), dense(up), dgate, dup)
    return dgate, dup


def _start(launch: Launcher, kernel: str, *tensors: Tensor) -> None:
    numel = tensors[0].numel()
    if numel:
        configuration = builds.flat(DTYPES[tensors[0].dtype], architecture_of(tensors[0]))
        grid = (cdiv(numel, int(configuration.constants["BLOCK"])),)
        launch(kernel, grid, (*tensors, numel), configuration)
