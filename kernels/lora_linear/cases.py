"""Inputs of `lora_linear`, for tests and benchmarks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Leading dimensions of x, out features, in features, rank, a bias or none, dropout."""

    rows: tuple[int, ...]
    N: int
    K: int
    R: int
    bias: bool = False
    dropout: float = 0.0


SIZES: dict[str, Size] = {
    "empty": Size((0,), 8, 16, 4),
    "one_row": Size((1,), 96, 64, 8, bias=True),
    "rank_1": Size((5,), 33, 47, 1),
    "odd": Size((3, 29), 131, 71, 5, bias=True),
    "wide_rank": Size((37,), 40, 24, 67),
    "many_blocks": Size((2, 150), 80, 656, 16),
    "dropout": Size((3, 61), 67, 353, 9, bias=True, dropout=0.3),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m_q_r16": Size((1024,), 576, 576, 16),
    "smollm2_135m_k_r16": Size((1024,), 192, 576, 16),
    "smollm2_135m_up_r16": Size((1024,), 1536, 576, 16),
    "smollm2_135m_down_r16": Size((1024,), 576, 1536, 16),
    "smollm2_135m_q_r16_dropout": Size((1024,), 576, 576, 16, dropout=0.1),
    "llama3_8b_q_r16": Size((4096,), 4096, 4096, 16),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0, 2, 3)  # x, lora_a, lora_b; the weight is frozen
SCALE = 2.0
SEED = 7 << 40 | 11


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, float, Tensor | None]:
    """x, weight, lora_a, lora_b, scale, bias; the update is about as large as the frozen layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = scale * torch.randn(shape, generator=generator)
        return drawn.to(device=device, dtype=dtype)

    return (
        draw(*size.rows, size.K),
        draw(size.N, size.K, scale=size.K**-0.5),
        draw(size.R, size.K, scale=size.K**-0.5),
        draw(size.N, size.R, scale=size.R**-0.5),
        SCALE,
        draw(size.N) if size.bias else None,
    )


def options(size: Size) -> dict[str, Any]:
    """Keyword arguments; of use are those of a size with dropout only."""
    return {"dropout": size.dropout, "seed": SEED} if size.dropout else {}


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways; the count is in README.md."""
    M, N, K, R = math.prod(size.rows), size.N, size.K, size.R
    flops = 4 * M * N * K + 6 * M * R * (N + K)
    return flops, dtype.itemsize * (2 * N * K + M * (3 * K + 2 * N))
