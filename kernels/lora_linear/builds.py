"""Configurations of the Triton kernels of `lora_linear`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import power_of_2, precision, tiles

# Most tokens that one program of `_rank_gradient` sums before its part is added to the others'.
TOKENS_A_SPLIT = 2048
# Tiles of the rank that are built.
RANK_TILES = {"bf16": (16, 32, 64, 128), "fp16": (16, 32, 64, 128), "fp32": (16,)}


def padded_rank(rank: int) -> int:
    """The rank as the kernels see it, with columns of zeros where vectors would not fit."""
    return -(-rank // 16) * 16


def rank_tile(rank: int) -> int:
    """The smallest tile that holds the rank; tensor cores want at least 16."""
    return power_of_2(padded_rank(rank))


@cache
def multiply(dtype: str, architecture: int, rank: int, *, bias: bool, drop: str) -> Configuration:
    """Of `_multiply`; `drop` is "none", "x" or "y"."""
    block_r = rank_tile(rank)
    m, n, k, warps, stages = tiles("lora_linear.multiply", dtype, architecture, block_r)
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "BLOCK_R": block_r}
    choices: dict[str, int | bool | str] = {
        "BIAS": bias,
        "DROP": drop,
        "PRECISION": precision(dtype),
    }
    return Configuration({**choices, **blocks}, warps, stages)


@cache
def rank_gradient(dtype: str, architecture: int, rank: int, *, drop: bool) -> Configuration:
    """Of `_rank_gradient`: its rows are the whole rank, n of the layer's columns, k tokens."""
    _, n, k, warps, stages = tiles("lora_linear.rank_gradient", dtype, architecture)
    blocks = {"BLOCK_M": k, "BLOCK_C": n, "BLOCK_R": rank_tile(rank)}
    return Configuration({"DROP": drop, "PRECISION": precision(dtype), **blocks}, warps, stages)


def not_built(dtype: str, K: int, N: int, R: int) -> str | None:
    """Why no build serves a layer of these sizes, or None."""
    if K % 16 or N % 16:
        return f"K = {K} and N = {N} must be multiples of 16"
    if (widest := RANK_TILES[dtype][-1]) < R:
        return f"rank {R} is over {widest}, the widest in {dtype}"
    return None


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Every kernel that forward and backward launch."""
    for rank in RANK_TILES[dtype]:
        yield from _multiplies(dtype, architecture, rank)
        yield from _rank_gradients(dtype, architecture, rank)


def _multiplies(dtype: str, architecture: int, rank: int) -> Iterator[Build]:
    shared = arguments(**{dtype: "x p q z y xq"}, i32="M seed_key threshold", real="scale")
    shared |= arguments(i32_16="N K R stride_xm")
    forward = arguments(one="stride_pk stride_qk stride_zr", i32_16="stride_pn stride_qr stride_zn")
    backward = arguments(
        one="stride_pn stride_qr stride_zn", i32_16="stride_pk stride_qk stride_zr"
    )
    for strides, masked, biases in ((forward, "x", (False, True)), (backward, "y", (False,))):
        for drop, bias in ((drop, bias) for drop in ("none", masked) for bias in biases):
            types = shared | strides | {"bias_ptr": "*fp32" if bias else "none"}
            configuration = multiply(dtype, architecture, rank, bias=bias, drop=drop)
            yield Build("lora_linear.multiply", types, configuration, architecture)


def _rank_gradients(dtype: str, architecture: int, rank: int) -> Iterator[Build]:
    shared = arguments(**{dtype: "x s"}, real="scale", i32="M seed_key threshold")
    shared |= arguments(fp32="parts", i32_16="C R tokens stride_xm stride_part")
    of_a = arguments(one="stride_c", i32_16="stride_r")
    of_b = arguments(one="stride_r", i32_16="stride_c")
    for strides, drops in ((of_a, (False, True)), (of_b, (False,))):
        for drop in drops:
            configuration = rank_gradient(dtype, architecture, rank, drop=drop)
            yield Build("lora_linear.rank_gradient", shared | strides, configuration, architecture)
