"""Random numbers that nobody stores, in Triton; hash.h says what they are."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from crucible_kitchen.kernels.common.hash import seed_key, threshold_of


@triton.jit
def mix(h):
    """A bijection of 32-bit integers, as in hash.h: uint32."""
    h = h.to(tl.uint32)
    h = h ^ (h >> 16)
    h = h * 0x7FEB352D
    h = h ^ (h >> 15)
    h = h * 0x846CA68B
    return h ^ (h >> 16)


def signed(h: int) -> int:
    """32 bits as an int32, which a kernel casts back: one compiled kernel for all values."""
    return h - 2**32 if h >= 2**31 else h


def key_argument(seed: int) -> int:
    """`seed_key` as a kernel takes it."""
    return signed(seed_key(seed))


def threshold_argument(share: float) -> int:
    """`threshold_of` as a kernel takes it."""
    return signed(threshold_of(share))
