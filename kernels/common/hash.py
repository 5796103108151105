"""Random numbers that nobody stores, in plain torch; hash.h says what they are."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 0xFFFFFFFF


def mix(h: int) -> int:
    """A bijection of 32-bit integers in which every output bit depends on every input bit."""
    h ^= h >> 16
    h = h * 0x7FEB352D & BITS
    h ^= h >> 15
    h = h * 0x846CA68B & BITS
    return h ^ h >> 16


def mix_tensor(h: Tensor) -> Tensor:
    """`mix` of each element, int64 that hold 32 bits."""
    h = h ^ h >> 16
    h = h * 0x7FEB352D & BITS
    h = h ^ h >> 15
    h = h * 0x846CA68B & BITS
    return h ^ h >> 16


def seed_key(seed: int) -> int:
    """The part of a hash that depends on the seed, of which 64 bits count."""
    return mix(mix(seed & BITS) ^ (seed >> 32 & BITS))


def threshold_of(share: float) -> int:
    """The 32-bit number below which a hash falls with this probability, in [0, 1)."""
    return min(round(share * 2.0**32), BITS)


def signed(h: int) -> int:
    """32 bits as an int32, which a Triton kernel casts back: one kernel for all values."""
    return h - 2**32 if h >= 2**31 else h


def key_argument(seed: int) -> int:
    """`seed_key` as a Triton kernel takes it."""
    return signed(seed_key(seed))


def threshold_argument(share: float) -> int:
    """`threshold_of` as a Triton kernel takes it."""
    return signed(threshold_of(share))


def kept(rows: int, columns: int, share: float, seed: int, device: torch.device) -> Tensor:
    """The dropout mask of a matrix: True [rows, columns] but for a share of its elements."""
    if share == 0:
        return torch.ones(rows, columns, dtype=torch.bool, device=device)
    key = seed_key(seed)
    row = torch.arange(rows, dtype=torch.int64, device=device)
    column = torch.arange(columns, dtype=torch.int64, device=device)
    keys = mix_tensor(row & BITS ^ key)
    return mix_tensor(keys[:, None] ^ column) >= threshold_of(share)
