"""Inputs of `linear_logprobs`, shared by its tests and its benchmark."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Tokens, hidden, vocabulary; what hidden states, and so logits, are multiplied by; and the
    arguments whose gradients the benchmark asks for."""

    T: int
    H: int
    V: int
    sharp: float = 1.0
    gradients: tuple[int, ...] = (0,)  # LoRA's head is frozen


SIZES = {
    "empty": Size(0, 16, 40),
    "one_row": Size(1, 64, 300),
    "one_word": Size(5, 8, 1),
    "odd": Size(67, 37, 1031),
    "many_words": Size(9, 64, 2049),
}
BENCHMARK_SIZES = {
    "smollm2_135m_512": Size(512, 576, 49152),
    "smollm2_135m_1024": Size(1024, 576, 49152),
    # Of the probability 97 % is in entries of at least 2^-12, as in SmolLM2's of English text.
    "smollm2_135m_1024_text": Size(1024, 576, 49152, 2.6),
    "smollm2_135m_1024_values": Size(1024, 576, 49152, gradients=()),
    "smollm2_135m_1024_trained": Size(1024, 576, 49152, gradients=(0, 1)),
    "llama3_8b_1024": Size(1024, 4096, 128256),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GRADIENTS = (0, 1)  # hidden and weight


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden, weight, targets; a third of the tokens are sure of their target, as in real text."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size.V, size.H, generator=generator)
    targets = torch.randint(size.V, (size.T,), generator=generator)
    hidden = torch.randn(size.T, size.H, generator=generator) * (2.0 / size.H**0.5)
    hidden[::3] += weight[targets[::3]] * (12.0 / size.H)
    return (
        (size.sharp * hidden).to(device=device, dtype=dtype),
        weight.to(device=device, dtype=dtype),
        targets.to(device),
    )


def benchmark_upstream(logprobs: Tensor) -> Tensor:
    """That of the mean loss: some of the peers compute no other."""
    return torch.full_like(logprobs, -1 / max(1, len(logprobs)))


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least: a product for the logits, and one for each gradient."""
    tokens, head = size.T * size.H, size.V * size.H
    products = (1 + len(size.gradients)) * 2 * size.T * head
    return products, dtype.itemsize * (2 * tokens + head) + 8 * size.T
