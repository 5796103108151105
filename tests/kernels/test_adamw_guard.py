"""The norm that a step reads on the device: it clips, and what is not finite changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.adamw_step import cases

from .conftest import device, promised

SIZE = cases.SIZES["odd"]


def stepped(backend: Any, dtype: torch.dtype, **options: Any) -> list[Tensor]:
    """Everything that a step on a case changes."""
    args = cases.inputs(SIZE, dtype, device())
    with ops.using(backend):
        ops.adamw_step(*args, **{**cases.options(SIZE), **options})
    return [*args[0], *args[2], *args[3]]


def norm_of(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=device())


@pytest.mark.parametrize("backend", promised())
@pytest.mark.parametrize(("norm", "max_norm"), [(8.0, 1.0), (0.5, 1.0), (8.0, 0.0), (0.0, 1.0)])
def test_gradients_are_clipped_to_the_norm(backend: Any, norm: float, max_norm: float) -> None:
    got = stepped(backend, torch.float32, norm=norm_of(norm), max_norm=max_norm)
    clip = min(1.0, max_norm / (0.5 * norm + 1e-6)) if max_norm else 1.0
    want = stepped(backend, torch.float32, grad_scale=0.5 * clip)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", promised())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_changes_nothing(backend: Any, bad: float) -> None:
    args = cases.inputs(SIZE, torch.float32, device())
    got = stepped(backend, torch.float32, norm=norm_of(bad), max_norm=1.0)
    before = [*args[0], *args[2], *args[3]]
    assert all(torch.equal(a, b) for a, b in zip(got, before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 1.0}, "norm must be given with max_norm = 1.0, got None"),
        ({"max_norm": -1.0}, "max_norm must be 0 or more, got -1.0"),
        ({"norm": torch.zeros(1)}, r"norm must be a float64 scalar, got torch.float32 of .*\[1\]"),
    ],
)
def test_a_bad_norm_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"adamw_step: {message}"):
        stepped(promised()[0], torch.float32, **options)


def test_a_norm_elsewhere_is_told() -> None:
    args = cases.inputs(SIZE, torch.float32, "cpu")
    elsewhere = torch.zeros((), dtype=torch.float64, device="meta")
    explanation = ops.explain("adamw_step", *args, **cases.options(SIZE), norm=elsewhere)
    assert "the tensors are on several devices" in str(explanation)
