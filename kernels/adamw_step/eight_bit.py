"""Running means of an optimizer in 8 bits an element, with one scale for each block of 256.

A block is divided by its largest magnitude and each element becomes the nearest of 256 numbers that
lie densely near zero and near one alike: some bits count the decimal exponent, the rest divide its
decade evenly. Blocks follow each other as the elements do in memory.

Source: Dettmers et al. 2022, section 2, https://arxiv.org/abs/2110.02861
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256
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
def _code(signed: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The numbers, and the middles between neighbours."""
    code = torch.tensor(dynamic_code(signed=signed), dtype=torch.float64)
    middles = (code[1:] + code[:-1]) / 2
    return code.to(device, dtype), middles.to(device, dtype)


def quantize(values: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Values as codes and scales.

    Args:
        values: float32 or float64, any shape, finite.
        signed: whether any may be negative.

    Returns:
        uint8 shaped as the values, in the same order in memory and without gaps; and float32
        [blocks], the largest magnitudes.
    """
    codes = torch.empty_like(values, dtype=torch.uint8)
    blocks = -(-values.numel() // BLOCK)
    scales = torch.empty(blocks, dtype=torch.float32, device=values.device)
    quantize_into(codes, scales, values, signed=signed)
    return codes, scales


def quantize_into(codes: Tensor, scales: Tensor, values: Tensor, *, signed: bool) -> None:
    """`quantize` into memory that is there."""
    _, middles = _code(signed, values.dtype, values.device)
    flat = _in_memory(torch.empty_like(codes, dtype=values.dtype).copy_(values))
    blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales.copy_(blocks.abs().amax(dim=1))
    # A block of zeros has scale 0; anything divides it.
    unit = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    _in_memory(codes).copy_(torch.bucketize(unit, middles).flatten()[: len(flat)])


def dequantize(codes: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """What `quantize` kept of the values, float32."""
    code, _ = _code(signed, torch.float32, codes.device)
    wide = torch.empty_like(codes, dtype=torch.float32)
    unit = code[_in_memory(codes).to(torch.int32)]
    _in_memory(wide).copy_(unit * scales.repeat_interleave(BLOCK)[: len(unit)])
    return wide


def _in_memory(dense: Tensor) -> Tensor:
    """A tensor's elements in the order that they have in memory."""
    return dense.as_strided((dense.numel(),), (1,))
