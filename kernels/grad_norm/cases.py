"""Inputs of grad_norm, for tests and benchmarks: the gradients of adamw_step's cases."""

from __future__ import annotations

import math

import torch

from crucible_kitchen.kernels.adamw_step import cases as adamw_step
from crucible_kitchen.kernels.adamw_step.cases import BENCHMARK_SIZES, DTYPES, SIZES, Size

__all__ = ["BENCHMARK_SIZES", "DTYPES", "GRADIENTS", "SIZES", "inputs", "work"]

GRADIENTS: tuple[int, ...] = ()  # the norm is not differentiated


def inputs(size: Size, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[list[torch.Tensor]]:
    """The gradients alone."""
    return (adamw_step.inputs(size, dtype, device, seed)[1],)


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least: each element is read once, squared and added."""
    elements = sum(math.prod(shape) for shape in size.shapes)
    return 2 * elements, elements * dtype.itemsize
