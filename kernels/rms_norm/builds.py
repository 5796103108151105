"""Configurations of the Triton kernels of `rms_norm`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import tiles

# Most rows that one program of `_grad_weight` sums before its part is added to the others'.
ROWS_A_SPLIT = 256


@cache
def row(dtype: str, architecture: int, N: int) -> Configuration:
    """Of `_forward` and `_grad_x`: a program a row, BLOCK elements at a time."""
    _, n, _, warps, stages = tiles("rms_norm.row", dtype, architecture, N)
    return Configuration({"BLOCK": n}, warps, stages)


@cache
def grad_weight(dtype: str, architecture: int) -> Configuration:
    """Of `_grad_weight`."""
    m, n, _, warps, stages = tiles("rms_norm.grad_weight", dtype, architecture)
    return Configuration({"BLOCK_M": m, "BLOCK_C": n}, warps, stages)


def not_built(N: int) -> str | None:
    """Why no build serves rows of N elements, or None."""
    return f"N = {N} is no multiple of 16" if N % 16 else None


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Both ways, for every length of a row that has a block of its own."""
    for N in (128, 1024, 2048, 4096):
        configuration = row(dtype, architecture, N)
        types = arguments(**{dtype: "x w y", "fp32_any": "rstd"}, i32_16="N", real="eps")
        yield Build("rms_norm.forward", types, configuration, architecture)
        types = arguments(**{dtype: "dy x w dx", "fp32_any": "rstd"}, i32_16="N")
        yield Build("rms_norm.grad_x", types, configuration, architecture)
    types = arguments(**{dtype: "dy x", "fp32_any": "rstd parts"}, i32="M", i32_16="N rows")
    yield Build("rms_norm.grad_weight", types, grad_weight(dtype, architecture), architecture)
