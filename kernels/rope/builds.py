"""Configurations of the Triton kernel of `rope`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import power_of_2, tiles

# Elements of half a head, rounded up.
HALVES = (32, 64, 128)


@cache
def rotate(dtype: str, architecture: int, half: int) -> Configuration:
    """A program takes both halves of a head."""
    row = tiles("rope", dtype, architecture)
    return Configuration({"BLOCK": power_of_2(half)}, row.warps, row.stages)


def not_built(D: int) -> str | None:
    """Why no build serves heads of D elements, or None."""
    half = D // 2
    if half % 16 or power_of_2(half) not in HALVES:
        return f"D = {D} is no multiple of 32 from 64 to 256"
    return None


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """One for each size of a head."""
    types = arguments(**{dtype: "x y"}, i32="heads", i32_16="half", real="sign")
    types |= arguments(fp32="cos sin")
    for half in HALVES:
        yield Build("rope.rotate", types, rotate(dtype, architecture, half), architecture)
