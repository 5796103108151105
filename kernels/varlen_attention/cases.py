"""Inputs of `varlen_attention`, for tests and benchmarks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Lengths of segments, heads, key-value heads, elements of a head; parents; a window."""

    lengths: tuple[int, ...]
    A: int
    G: int
    D: int
    parents: tuple[int, ...] | None = None
    window: int | None = None


SIZES: dict[str, Size] = {
    "empty": Size((), 2, 1, 8),
    "one_token": Size((1, 2), 3, 3, 5),
    "odd": Size((7, 0, 13), 4, 2, 22),
    "many_tiles": Size((75,), 1, 1, 64),
    "window": Size((67,), 1, 1, 20, None, 40),
    "tree": Size((66, 9, 5, 7), 2, 1, 16, (-1, 0, 1, -1)),
    "several_parts": Size((150, 70, 40), 2, 1, 16, (-1, 0, 0)),
    "tree_window": Size((30, 9, 0, 16), 1, 1, 8, (-1, 0, 0, 2), 20),
}
BENCHMARK_SIZES: dict[str, Size] = {
    # What 8 rows of builtin:python-docs are, and what 4 rows of 512 tokens are.
    "smollm2_135m_ragged": Size((203, 88, 131, 167, 95, 240, 122, 130), 9, 3, 64),
    "smollm2_135m_dense": Size((512,) * 4, 9, 3, 64),
    "llama3_8b": Size((2048,) * 4, 32, 8, 128),
}
DTYPES = (torch.float32, torch.bfloat16)
GRADIENTS = (0, 1, 2)  # q, k, v


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, cu_seqlens; scores of a spread that leaves some queries sure of themselves."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, scale: float) -> Tensor:
        drawn = torch.randn(sum(size.lengths), heads, size.D, generator=generator)
        return (scale * drawn).to(device=device, dtype=dtype)

    bounds = torch.tensor([0, *size.lengths]).cumsum(0)
    return draw(size.A, 2.0), draw(size.G, 1.0), draw(size.G, 1.0), bounds


def options(size: Size) -> dict[str, Any]:
    """Parents and window, where the size has them."""
    parents = None if size.parents is None else torch.tensor(size.parents)
    return {"parents": parents, "window": size.window}


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least, both ways: 2 products of scores forward, 5 backward."""
    pairs = sum(length * (length + 1) // 2 for length in size.lengths)  # none continues another
    elements = sum(size.lengths) * size.D * (6 * size.A + 6 * size.G)
    return 14 * pairs * size.A * size.D, elements * dtype.itemsize
