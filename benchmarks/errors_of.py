"""How far a call is from the truth: the reference in float64, on the very inputs that are timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.errors import KernelError
from crucible_kitchen.kernels.common.tolerance import TOLERANCE

from .problem import Problem


class WrongResult(KernelError):
    """A kernel of ours computes something else than the reference: its time means nothing."""


def truth(problem: Problem) -> list[Tensor]:
    """Output and gradients by the reference, in float64."""
    reference = ops.OPS[problem.op].kernel("reference").load()
    args = tuple(_widen(argument) for argument in problem.leaves())
    return problem.forward_and_backward(reference, args)()


def error_of(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest of the relative errors of what was made; NaN where something is missing.

    A peer that gives one loss for all tokens is held to the mean of theirs.
    """
    if len(got) != len(want):
        return float("nan")
    errors = [0.0]
    for have, wanted in zip(got, want, strict=True):
        if have.ndim == 0:
            wanted = wanted.mean()
        if have.shape != wanted.shape:
            return float("nan")
        size = float(wanted.norm())
        error = float((have.double() - wanted).norm())
        errors.append(error / size if size else error)
    return max(errors) if all(error == error for error in errors) else float("nan")


def refuse_wrong(problem: Problem, backend: str, error: float) -> None:
    """Raises WrongResult unless the error is within the tolerance of the problem's dtype."""
    allowed = TOLERANCE[problem.dtype]
    if not error <= allowed:  # written so that NaN fails
        raise WrongResult(
            f"bench: {problem.op} {problem.size_name}: the {backend} kernel must agree with the "
            f"reference to {allowed:.1e} of its norm, got {error:.1e}; it is not timed"
        )


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        copy = value.detach().clone()
        copy = copy.to(torch.float64) if copy.is_floating_point() else copy
        return copy.requires_grad_(value.requires_grad)
    if isinstance(value, list):
        return [_widen(item) for item in value]
    return value
