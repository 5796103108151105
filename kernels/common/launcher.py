"""How the host side of the Triton kernels starts one: `Launcher`, and what it hands over.

The same host code serves kernels that Triton compiles on first use (`jit.py`) and kernels that were
compiled when the wheel was built, so it imports torch and not Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.configuration import Configuration
from crucible_kitchen.kernels.common.tuning import architecture_for

# As Triton names them.
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Launcher(Protocol):
    """Starts a kernel on the current stream of its tensors' device, and does not wait."""

    def __call__(
        self,
        kernel: str,
        grid: tuple[int, ...],
        args: Sequence[Tensor | int | float | None],
        configuration: Configuration,
    ) -> None:
        """Start one kernel.

        Args:
            kernel: ``op.name``, of ``_name`` in kernels/<op>/triton_kernels.py.
            grid: programs along up to three axes.
            args: the arguments that are no constants, in order.
            configuration: the constants, and how the kernel is built.
        """


def architecture_of(tensor: Tensor) -> int:
    """Whose tiles this tensor's device takes; the oldest's where there is no GPU."""
    return _architecture(tensor.device) if tensor.device.type == "cuda" else 80


@cache
def _architecture(device: torch.device) -> int:
    return architecture_for(*torch.cuda.get_device_capability(device))


def cdiv(n: int, d: int) -> int:
    """n / d, rounded up."""
    return -(-n // d)


def aligned(tensor: Tensor) -> bool:
    """Whether its memory begins where a vector of 16 bytes may."""
    return tensor.data_ptr() % 16 == 0


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself if it is contiguous and aligned, else a copy that is."""
    if tensor.is_contiguous() and aligned(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def rows_of(matrix: Tensor) -> tuple[Tensor, int]:
    """The matrix and the stride of its rows, or a copy of it where vectors cannot be loaded."""
    rows, columns = matrix.shape
    stride = matrix.stride(0) if rows > 1 else columns
    together = columns == 1 or matrix.stride(1) == 1
    if together and aligned(matrix) and (columns % 16 or stride % 16 == 0):
        return matrix, stride
    return matrix.clone(memory_format=torch.contiguous_format), columns
