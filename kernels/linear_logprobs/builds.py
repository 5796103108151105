"""Configurations of the Triton kernels of `linear_logprobs`, and which are built ahead of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from crucible_kitchen.kernels.common.configuration import Build, Configuration, arguments
from crucible_kitchen.kernels.common.tuning import Tiles, precision, tiles


def tiles_of(dtype: str, architecture: int) -> Tiles:
    """m tokens, n of the vocabulary, k of the hidden size: of all kernels here."""
    return tiles("linear_logprobs", dtype, architecture)


@cache
def product(dtype: str, architecture: int, **choices: bool) -> Configuration:
    """Of `_score`, which has choices, `_gather_slope` and `_gather_head`."""
    m, n, k, warps, stages = tiles_of(dtype, architecture)
    blocks = {"BLOCK_T": m, "BLOCK_V": n, "BLOCK_H": k}
    return Configuration({**choices, **blocks, "PRECISION": precision(dtype)}, warps, stages)


@cache
def merge(dtype: str, architecture: int, *, totals: bool) -> Configuration:
    """Of `_merge`."""
    return Configuration({"TOTALS": totals, "BLOCK_T": tiles_of(dtype, architecture).m})


def score_choices(*, softcap: bool, totals: bool, store: bool, given_lse: bool) -> dict[str, bool]:
    """The choices of `_score`, by the kernel's names."""
    return {"SOFTCAP": softcap, "TOTALS": totals, "STORE": store, "GIVEN_LSE": given_lse}


def not_built(H: int, V: int, softcap: float) -> str | None:
    """Why no build serves a head of these sizes, or None."""
    if H % 16 or V % 16:
        return f"H = {H} and V = {V} must be multiples of 16"
    if softcap:
        return "a logit softcap is not built"
    return None


_STATISTICS = "tile_max tile_sum tile_total target_logit"
_GIVEN = "lse at_target grad"
_SIZES: Mapping[str, str] = {"i32": "T", "i32_16": "H first columns"}


def builds(dtype: str, architecture: int) -> Iterator[Build]:
    """Everything that forward and the head's gradient launch without a softcap."""
    for totals, store, given in (
        (False, True, False),
        (False, False, False),
        (True, True, False),
        (True, False, False),
        (False, True, True),
    ):
        statistics = {"none": _STATISTICS, "fp32_any": _GIVEN} if given else {
            "fp32_any": _STATISTICS, "none": _GIVEN,
        }  # fmt: skip
        types = arguments(
            **{dtype: "x w scratch", "real": "softcap even_share"}, **_SIZES, **statistics
        ) | {"targets_ptr": "*i64"}
        choices = score_choices(softcap=False, totals=totals, store=store, given_lse=given)
        configuration = product(dtype, architecture, **choices)
        yield Build("linear_logprobs.score", types, configuration, architecture)
    statistics = arguments(
        fp32_any="tile_max tile_sum tile_total max sum total rescale", i32="T tiles_v"
    )
    for totals in (False, True):
        configuration = merge(dtype, architecture, totals=totals)
        yield Build("linear_logprobs.merge", statistics, configuration, architecture)
    configuration = product(dtype, architecture)
    types = arguments(**{dtype: "scratch w"}, **_SIZES)
    types |= arguments(fp32_any="factor rescale") | {"slope_ptr": "*fp32:16"}
    yield Build("linear_logprobs.gather_slope", types, configuration, architecture)
    types = arguments(**{dtype: "scratch x dw"}, **_SIZES) | arguments(fp32_any="unlift")
    yield Build("linear_logprobs.gather_head", types, configuration, architecture)
