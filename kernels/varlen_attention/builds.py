"""Configurations of the Triton kernels of `varlen_attention`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import power_of_2, tiles

# Tiles of a head that are built; float32's exact products spill and take half a minute to compile.
HEADS = {"bf16": (64, 128), "fp16": (64, 128), "fp32": ()}


@cache
def attention(kernel: str, dtype: str, architecture: int, D: int) -> Configuration:
    """Of one of the three: tiles of as many queries as keys, and the whole of a head."""
    block_d = max(16, power_of_2(D))
    m, n, _, warps, stages = tiles(f"varlen_attention.{kernel}", dtype, architecture, block_d)
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": block_d}
    # Three tf32 products for one of float32 spill here.
    exact = "ieee" if dtype == "fp32" else "tf32"
    return Configuration({**blocks, "PRECISION": exact}, warps, stages)


def not_built(dtype: str, D: int) -> str | None:
    """Why no build serves heads of D elements, or None."""
    if not HEADS[dtype]:
        return f"attention in {dtype} is not built"
    if D % 16 or power_of_2(D) not in HEADS[dtype]:
        return f"D = {D} is no multiple of 16 from 48 to {HEADS[dtype][-1]}"
    return None


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Forward and both halves of the backward, for each size of a head."""
    shared = {"i32": "A G window", "i32_16": "D", "real": "scale"}
    back = "lse along"
    kernels = {
        "forward": ("q k v out", "lse", "tiles bounds parents positions"),
        "grad_q": ("dout q k v dq", back, "tiles bounds parents positions"),
        "grad_kv": ("dout q k v dk dv", back, "tiles bounds positions reach reached"),
    }
    for D in HEADS[dtype]:
        for kernel, (own, exact, tree) in kernels.items():
            types = arguments(**{dtype: own} | shared | {"i64_any": tree})
            types |= arguments(fp32_any=exact)
            configuration = attention(kernel, dtype, architecture, D)
            yield Build(f"varlen_attention.{kernel}", types, configuration, architecture)
