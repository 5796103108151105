"""Gradients of a whole step beside float64: a wrong step is not timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from crucible_kitchen.kernels.common.tolerance import TOLERANCE
from crucible_kitchen.types import Datum

from .errors_of import WrongResult
from .step_contenders import Contender

# Gradients are compared on the last tokens of a few rows at a time: float64 takes a second each.
PROBES, PROBE_ROWS, PROBE_TOKENS = 6, 2, 96
# Two ways to round in bfloat16 are draws of one kind. Which of them ends nearer to float64 differs
# from probe to probe (8 of `ragged` on SmolLM2: 0.7 to 2.3 times the peer, 1.02 in the mean), so
# what is compared is the mean over probes, and this is about three deviations of it.
CHANCE = 1.5


def gradient_error(found: Sequence[Mapping[str, Any]], exact: Sequence[Mapping[str, Any]]) -> float:
    """How far gradients are from float64, relative to their norm; the geometric mean of probes.

    Args:
        found: gradients of each probe by name.
        exact: those of the peer's model in float64.
    """
    return _geometric_mean([_distance(*pair) for pair in zip(found, exact, strict=True)])


def check_gradients(ours: Contender, errors: Mapping[Contender, float]) -> None:
    """Compare with the peers in the same dtype.

    Raises:
        WrongResult: ours are further from float64 than each peer's by more than chance, and than
            one op may be.
    """
    dtype = ours.dtype
    allowed = max(e for one, e in errors.items() if one.dtype == dtype and one != ours)
    chance = 1 if dtype == "float32" else CHANCE
    if not errors[ours] <= max(chance * allowed, TOLERANCE[getattr(torch, dtype)]):  # NaN fails
        raise WrongResult(
            f"bench: step: gradients in {dtype} must be no further from float64 than a peer's, "
            f"{allowed:.1e} of their norm, got {errors[ours]:.1e}"
        )


def probes(datums: Sequence[Datum]) -> list[list[Datum]]:
    """The last tokens of some rows, a few rows each: what is trained comes last."""

    def cut(datum: Datum) -> Datum:
        inputs = {
            name: values.tolist()[-PROBE_TOKENS:] for name, values in datum.loss_fn_inputs.items()
        }
        return Datum(datum.model_input.to_ints()[-PROBE_TOKENS:], inputs)

    starts = range(0, min(len(datums), PROBES * PROBE_ROWS), PROBE_ROWS)
    return [[cut(datum) for datum in datums[start : start + PROBE_ROWS]] for start in starts]


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.prod(values) ** (1 / len(values)))


def _distance(got: Mapping[str, Any], want: Mapping[str, Any]) -> float:
    """Over all gradients together, relative to their norm; names must be the same."""
    if got.keys() != want.keys():  # NaN agrees with nothing
        return float("nan")
    apart = sum(float(np.square(got[name] - want[name]).sum()) for name in want)
    return float((apart / sum(float(np.square(value).sum()) for value in want.values())) ** 0.5)
