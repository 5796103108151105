"""Inputs of `lora_linear_many`, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Rows of each update, out features of each layer, in features, rank, biases, dropout, and
    whether A and B are a tensor for each layer."""

    rows: tuple[int, ...]
    Ns: tuple[int, ...]
    K: int
    R: int
    bias: bool = False
    dropout: float = 0.0
    stacked: bool = False


SIZES: dict[str, Size] = {
    "empty": Size((0,), (8,), 16, 4),
    "one_of_each": Size((5,), (33,), 47, 1, bias=True),
    "odd": Size((37,), (48, 17, 17), 71, 5, bias=True),
    "many": Size((1, 4, 0, 200, 7, 90, 60), (83,), 129, 9),
    "stacked": Size((3, 0, 40), (40, 24), 33, 6, stacked=True),
    "both": Size((3, 150, 2), (40, 24), 331, 16, dropout=0.3),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m_q_64x4": Size((4,) * 64, (576,), 576, 16),
    "smollm2_135m_q_32x8": Size((8,) * 32, (576,), 576, 16),
    "smollm2_135m_q_8x128": Size((128,) * 8, (576,), 576, 16),
    "smollm2_135m_qkv": Size((1024,), (576, 192, 192), 576, 16),
    "smollm2_135m_gate_up": Size((1024,), (1536, 1536), 576, 16),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0, 2, 3)  # x, lora_a, lora_b; the weights are frozen
SCALE = 2.0
Inputs = tuple[
    Tensor, list[Tensor], list[Tensor], list[Tensor], list[float], list[int], list[Tensor] | None
]


def inputs(size: Size, dtype: torch.dtype, device: str, seed: int = 0) -> Inputs:
    """x, weights, lora_a, lora_b, scales, rows, biases; every update has a scale of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = scale * torch.randn(shape, generator=generator)
        return drawn.to(device=device, dtype=dtype)

    updates = [N for N in size.Ns for _ in size.rows]

    def stacks(matrices: list[Tensor]) -> list[Tensor]:
        count = len(size.rows)
        if not size.stacked:
            return matrices
        return [torch.stack(matrices[i : i + count]) for i in range(0, len(matrices), count)]

    return (
        draw(sum(size.rows), size.K),
        [draw(N, size.K, scale=size.K**-0.5) for N in size.Ns],
        stacks([draw(size.R, size.K, scale=size.K**-0.5) for _ in updates]),
        stacks([draw(N, size.R, scale=size.R**-0.5) for N in updates]),
        [SCALE + i / len(updates) for i in range(len(updates))],
        list(size.rows),
        [draw(N) for N in size.Ns] if size.bias else None,
    )


def options(size: Size) -> dict[str, Any]:
    """Keyword arguments; of use are those of a size with dropout only."""
    if not size.dropout:
        return {}
    return {"dropout": size.dropout, "seeds": [*range(len(size.Ns) * len(size.rows))]}


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways, as lora_linear's README.md counts them."""
    M, K, R, N = sum(size.rows), size.K, size.R, sum(size.Ns)
    flops = 4 * M * N * K + 6 * M * R * (N + len(size.Ns) * K)
    updates = R * (N + len(size.Ns) * K) * len(size.rows)
    return flops, dtype.itemsize * (2 * N * K + M * (3 * K + 2 * N) + 3 * updates)


def offsets(rows: Sequence[int]) -> list[tuple[int, int]]:
    """First row and end of each update."""
    ends = [sum(rows[: i + 1]) for i in range(len(rows))]
    return list(zip([0, *ends], ends, strict=False))
