"""Configurations of the Triton kernels of `swiglu`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import tiles


@cache
def flat(dtype: str, architecture: int) -> Configuration:
    """Of both: elements a program."""
    _, n, _, warps, stages = tiles("swiglu", dtype, architecture)
    return Configuration({"BLOCK": n}, warps, stages)


def not_built(numel: int) -> str | None:
    """Why no build serves tensors of this size, or None."""
    return f"{numel} elements are no multiple of 16" if numel % 16 else None


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Forward and backward."""
    configuration = flat(dtype, architecture)
    for kernel, pointers in (("forward", "gate up y"), ("backward", "dy gate up dgate dup")):
        types = arguments(**{dtype: pointers, "i64_16": "numel"})
        yield Build(f"swiglu.{kernel}", types, configuration, architecture)
