"""Inputs of adamw_step, for tests and benchmarks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Size(NamedTuple):
    """Shapes of the parameters, in order."""

    shapes: tuple[tuple[int, ...], ...]


def _lora(layers: int, hidden: int, kv: int, intermediate: int, rank: int) -> Size:
    """The LoRA parameters of a Llama: A and B of each of the seven linears of each layer."""
    linears = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    linears += [(hidden, intermediate)] * 2 + [(intermediate, hidden)]
    pairs = [shape for k, n in linears for shape in ((rank, k), (n, rank))]
    return Size(tuple(pairs * layers))


SIZES: dict[str, Size] = {
    "no_tensor": Size(()),
    "empty": Size(((0, 8), (4,))),
    "one_element": Size(((1,),)),
    "rank_1": Size(((1, 17), (33, 1))),
    "odd": Size(((3, 7), (5,), (2, 3, 11), (129,))),
    "many_chunks": Size(((3, 40961), (1,), (16384,))),
    "many_tensors": _lora(layers=2, hidden=24, kv=8, intermediate=40, rank=3),
}
BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m_r16": _lora(layers=30, hidden=576, kv=192, intermediate=1536, rank=16),
}
DTYPES = (torch.float32, torch.bfloat16)
GRADIENTS: tuple[int, ...] = ()  # nothing is differentiated; RESULTS are changed in place
RESULTS = {"params": 0, "exp_avgs": 2, "exp_avg_sqs": 3}


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[list[torch.Tensor], ...]:
    """params, grads (both in dtype), exp_avgs, exp_avg_sqs (float32), as after some steps."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float, wanted: torch.dtype) -> list[torch.Tensor]:
        shapes = size.shapes
        fresh = (scale * torch.randn(shape, generator=generator) for shape in shapes)
        return [t.to(device=device, dtype=wanted) for t in fresh]

    params, grads = draw(0.02, dtype), draw(0.1, dtype)
    exp_avgs = draw(0.05, torch.float32)
    exp_avg_sqs = [t.square_() for t in draw(0.1, torch.float32)]
    return params, grads, exp_avgs, exp_avg_sqs


def options(size: Size) -> dict[str, object]:
    """Keyword arguments: lr is as large as the parameters, so that a wrong update shows."""
    return {
        "step": [3 + i % 5 for i in range(len(size.shapes))],
        "lr": 0.02,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.1,
        "grad_scale": 0.5,
    }


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes of a step at the least; the count is in README.md."""
    elements = sum(math.prod(shape) for shape in size.shapes)
    return 14 * elements, elements * (3 * dtype.itemsize + 16)
