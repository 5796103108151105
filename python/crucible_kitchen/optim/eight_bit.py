"""Running means of an optimizer in 8 bits an element, with one scale for each block of 256.

A block is divided by its largest magnitude and each element becomes the nearest of 256 numbers that
lie densely near zero and near one alike: some bits count the decimal exponent, the rest divide its
decade evenly.

Source: Dettmers et al. 2022, section 2, https://arxiv.org/abs/2110.02861
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256
# Smaller tensors stay in float32: they save little, and biases and norms are the touchy ones.
SMALLEST = 4096
_DECADES = 7


def dynamic_code(*, signed: bool) -> list[float]:
    """The 256 numbers, rising, from -1 or 0 to 1."""
    magnitudes = [0.0, 1.0]
    for decade in range(_DECADES):
        parts = 2 ** (decade if signed else decade + 1)
        edges = [0.1 + 0.9 * i / parts for i in range(parts + 1)]
        scale = 10.0 ** (decade + 1 - _DECADES)
        magnitudes += [scale * (low + high) / 2 for low, high in pairwise(edges)]
    if signed:
        magnitudes += [-magnitude for magnitude in magnitudes[2:]]
    return sorted(magnitudes)


@lru_cache(maxsize=8)
def _code(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers, and the middles between neighbours."""
    code = torch.tensor(dynamic_code(signed=signed), dtype=torch.float32)
    return code.to(device), ((code[1:] + code[:-1]) / 2).to(device)


def quantize(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Values as codes and scales.

    Args:
        values: float32, any shape, finite.
        signed: whether any may be negative.

    Returns:
        uint8 shaped as the values, contiguous, and float32 [blocks], the largest magnitudes.
    """
    _, middles = _code(signed, values.device)
    flat = values.flatten()
    rest = -len(flat) % BLOCK
    blocks = functional.pad(flat, (0, rest)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    # A block of zeros has scale 0; anything divides it.
    unit = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(unit, middles, out_int32=True).to(torch.uint8)
    return codes.flatten()[: len(flat)].view(values.shape), scales


def dequantize(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """What `quantize` kept of the values, float32."""
    code, _ = _code(signed, codes.device)
    unit = code[codes.flatten().to(torch.int32)]
    wide = scales.repeat_interleave(BLOCK)[: len(unit)]
    return (unit * wide).view(codes.shape)
