"""Inputs of adamw_step, for tests and benchmarks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Size(NamedTuple):
    """What is stepped, and how.

    Args:
        shapes: of the parameters, in order.
        own_moments: the running means have the parameters' dtype, as torch's have, in place of
            float32.
        stochastic: bfloat16 parameters are rounded stochastically.
        max_norm: of the gradients, to which they are clipped; 0: not.
        dtypes: those it is worth timing in.
    """

    shapes: tuple[tuple[int, ...], ...]
    own_moments: bool = False
    stochastic: bool = False
    max_norm: float = 0.0
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)


def _lora(layers: int, hidden: int, kv: int, intermediate: int, rank: int) -> Size:
    """The LoRA parameters of a Llama: A and B of each of the seven linears of each layer."""
    linears = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    linears += [(hidden, intermediate)] * 2 + [(intermediate, hidden)]
    pairs = [shape for k, n in linears for shape in ((rank, k), (n, rank))]
    return Size(tuple(pairs * layers))


def _llama(layers: int, hidden: int, kv: int, intermediate: int, vocabulary: int) -> Size:
    """All parameters of a Llama whose head is its embedding, to be stepped in bfloat16."""
    square, narrow, wide = (hidden, hidden), (kv, hidden), (intermediate, hidden)
    layer = [square, narrow, narrow, square, wide, wide, wide[::-1], (hidden,), (hidden,)]
    return Size(((vocabulary, hidden), *layer * layers, (hidden,)), dtypes=(torch.bfloat16,))


SIZES: dict[str, Size] = {
    "no_tensor": Size(()),
    "empty": Size(((0, 8), (4,))),
    "one_element": Size(((1,),)),
    "rank_1": Size(((1, 17), (33, 1))),
    "odd": Size(((3, 7), (5,), (2, 3, 11), (129,))),
    "many_chunks": Size(((3, 40961), (1,), (16384,))),
    "own_moments": Size(((3, 40961), (16384,), (65, 67)), own_moments=True, stochastic=True),
    "many_tensors": _lora(layers=2, hidden=24, kv=8, intermediate=40, rank=3),
}
_LORA = _lora(layers=30, hidden=576, kv=192, intermediate=1536, rank=16)
_WHOLE = _llama(layers=30, hidden=576, kv=192, intermediate=1536, vocabulary=49152)


def _as_torch(name: str, size: Size) -> dict[str, Size]:
    """With running means in bfloat16, as torch has them: plain, rounded at random, clipped."""
    own = size._replace(own_moments=True, dtypes=(torch.bfloat16,))
    return {
        f"{name}_own_moments": own,
        f"{name}_own_moments_stochastic": own._replace(stochastic=True),
        f"{name}_own_moments_clip": own._replace(max_norm=1.0),
    }


BENCHMARK_SIZES: dict[str, Size] = {
    "smollm2_135m_r16": _LORA,
    **_as_torch("smollm2_135m_r16", _LORA),
    "smollm2_135m": _WHOLE,
    **_as_torch("smollm2_135m", _WHOLE),
}
DTYPES = (torch.float32, torch.bfloat16)
GRADIENTS: tuple[int, ...] = ()  # nothing is differentiated; RESULTS are changed in place
RESULTS = {"params": 0, "exp_avgs": 2, "exp_avg_sqs": 3}


def inputs(
    size: Size, dtype: torch.dtype, device: str, seed: int = 0
) -> tuple[list[torch.Tensor], ...]:
    """params, grads (both in dtype), exp_avgs, exp_avg_sqs (as `size` says), after some steps."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float, wanted: torch.dtype) -> list[torch.Tensor]:
        shapes = size.shapes
        fresh = (scale * torch.randn(shape, generator=generator) for shape in shapes)
        return [t.to(device=device, dtype=wanted) for t in fresh]

    params, grads = draw(0.02, dtype), draw(0.1, dtype)
    kept = dtype if size.own_moments else torch.float32
    exp_avgs = draw(0.05, kept)
    # Away from zero, as after some steps: else a few updates would be all of a parameter's norm.
    exp_avg_sqs = [t.square_().add_(0.01) for t in draw(0.1, kept)]
    return params, grads, exp_avgs, exp_avg_sqs


def options(size: Size) -> dict[str, object]:
    """Keyword arguments: lr is as large as the parameters, so that a wrong update shows."""
    made: dict[str, object] = {
        "step": [3 + i % 5 for i in range(len(size.shapes))],
        "lr": 0.02,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.1,
        "grad_scale": 0.5,
    }
    if size.stochastic:
        made |= {"stochastic_rounding": True, "seed": 5}
    return made | ({"max_norm": size.max_norm} if size.max_norm else {})


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes of a step at the least; the count is in README.md."""
    elements = sum(math.prod(shape) for shape in size.shapes)
    moments = dtype if size.own_moments else torch.float32
    reads = 2 if size.max_norm else 1  # of a gradient: the norm is known when all are read
    return 14 * elements, elements * ((2 + reads) * dtype.itemsize + 4 * moments.itemsize)
