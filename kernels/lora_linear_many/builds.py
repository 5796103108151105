"""Configurations of the Triton kernels of `lora_linear_many`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import precision, tiles
from crucible_kitchen.kernels.lora_linear.builds import RANK_TILES, rank_gradient, rank_tile


@cache
def multiply(dtype: str, architecture: int, rank: int, *, drop: str) -> Configuration:
    """Of `_multiply`; `drop` is "none", "x" or "y"."""
    block_r = rank_tile(rank)
    m, n, k, warps, stages = tiles("lora_linear_many.multiply", dtype, architecture, block_r)
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "BLOCK_R": block_r}
    return Configuration({"DROP": drop, "PRECISION": precision(dtype), **blocks}, warps, stages)


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Every kernel that forward and backward launch."""
    for rank in RANK_TILES[dtype]:
        yield from _multiplies(dtype, architecture, rank)
        yield from _rank_gradients(dtype, architecture, rank)


_TABLES = arguments(i64="ranges seed_keys", fp32="scales", i32="threshold")


def _multiplies(dtype: str, architecture: int, rank: int) -> Iterator[Build]:
    shared = _TABLES | arguments(**{dtype: "x p q z y xq"}, i32="ranges")
    shared |= arguments(fp32="bias", i32_16="N K R stride_xm stride_qu stride_zu")
    forward = arguments(one="stride_pk stride_qk stride_zr", i32_16="stride_pn stride_qr stride_zn")
    backward = arguments(
        one="stride_pn stride_qr stride_zn", i32_16="stride_pk stride_qk stride_zr"
    )
    for strides, masked in ((forward, "x"), (backward, "y")):
        for drop in ("none", masked):
            configuration = multiply(dtype, architecture, rank, drop=drop)
            yield Build("lora_linear_many.multiply", shared | strides, configuration, architecture)


def _rank_gradients(dtype: str, architecture: int, rank: int) -> Iterator[Build]:
    shared = _TABLES | arguments(**{dtype: "x s"}, i32_16="C R stride_xm stride_part")
    shared |= arguments(fp32="parts")
    of_a = arguments(one="stride_c", i32_16="stride_r")
    of_b = arguments(one="stride_r", i32_16="stride_c")
    for strides, drops in ((of_a, (False, True)), (of_b, (False,))):
        for drop in drops:
            configuration = rank_gradient(dtype, architecture, rank, drop=drop)
            types = shared | strides
            yield Build("lora_linear_many.rank_gradient", types, configuration, architecture)
