"""Inputs of `rope`, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Tokens, heads, elements of a head."""

    T: int
    A: int
    D: int


SIZES: dict[str, Size] = {
    "empty": Size(0, 2, 8),
    "one_pair": Size(1, 1, 2),
    "one_row": Size(1, 3, 64),
    "odd": Size(7, 3, 22),
    "many_tokens": Size(301, 5, 80),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m_q": Size(1024, 9, 64),
    "smollm2_135m_k": Size(1024, 3, 64),
    "llama3_8b_q": Size(4096, 32, 128),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0,)  # x; the angles are constants


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x in the dtype; cosines and sines in float32, of positions that start anywhere."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator)
    positions = torch.randint(0, 8192, (size.T,), generator=generator)
    frequencies = 10000.0 ** -(torch.arange(size.D // 2) * 2 / size.D)
    angles = positions[:, None] * frequencies
    return x.to(device=device, dtype=dtype), angles.cos().to(device), angles.sin().to(device)


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways: 2 reads and 2 writes an element, and the angles."""
    elements = size.T * size.A * size.D
    return 6 * elements, 4 * elements * dtype.itemsize + 8 * size.T * size.D
