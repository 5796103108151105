"""Inputs of `rms_norm`, for tests and benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Size = tuple[int, ...]

SIZES: dict[str, Size] = {
    "empty": (0, 8),
    "short_rows": (3, 3),
    "one_row": (1, 37),
    "odd": (3, 5, 131),
    "long_rows": (3, 4610),
    "many_rows": (2, 50, 72),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m": (1024, 576),
    "llama3_8b": (4096, 4096),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0, 1)
EPS = 1e-5


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, float]:
    """x, weight, eps; rows of many magnitudes, so that eps matters to some."""
    generator = torch.Generator().manual_seed(seed)
    magnitude = 10.0 ** torch.randint(-3, 3, (*size[:-1], 1), generator=generator)
    x = magnitude * torch.randn(size, generator=generator)
    weight = 1 + 0.5 * torch.randn(size[-1], generator=generator)
    return x.to(device=device, dtype=dtype), weight.to(device=device, dtype=dtype), EPS


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways: 3 reads and 2 writes an element."""
    elements = math.prod(size)
    return 12 * elements, 5 * elements * dtype.itemsize
