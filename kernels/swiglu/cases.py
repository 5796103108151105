"""Inputs of `swiglu`, for tests and benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Size = tuple[int, ...]

SIZES: dict[str, Size] = {
    "empty": (0, 8),
    "one_element": (1,),
    "one_row": (1, 37),
    "odd": (3, 5, 131),
    "many_blocks": (2, 65, 257),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m": (1024, 1536),
    "llama3_8b": (4096, 14336),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0, 1)


def inputs(size: Size, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """gate and up; some gates so far out that a sigmoid is 0 or 1, where exp(-gate) overflows."""
    generator = torch.Generator().manual_seed(seed)
    gate, up = (torch.randn(size, generator=generator) for _ in range(2))
    far = torch.randint(0, 10, size, generator=generator) == 0
    gate = torch.where(far, 100 * gate, gate)
    return gate.to(device=device, dtype=dtype), up.to(device=device, dtype=dtype)


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways: 5 reads and 3 writes an element."""
    elements = math.prod(size)
    return 30 * elements, 8 * elements * dtype.itemsize
