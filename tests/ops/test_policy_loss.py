"""Losses of policies by name: settings, bad input; values are in test_local_losses.py."""

from __future__ import annotations

import math

import pytest
import torch

from crucible_kitchen.ops import POLICY_LOSSES, policy_loss
from crucible_kitchen.ports import LOSSES

LP = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
Q, A = LP - math.log(3.0), torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)


def test_its_losses_are_those_of_the_port_but_cross_entropy() -> None:
    assert {*POLICY_LOSSES, "cross_entropy"} == LOSSES.keys()


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        ("importance_sampling", [-3.0, 3.0, 0.0]),
        ("ppo", [-1.5, 3.0, 0.0]),
        ("cispo", [1.5, -3.0, 0.0]),
        ("dro", [1.0 + math.log(3.0) ** 2, -2.0 + math.log(3.0) ** 2, math.log(3.0) ** 2]),
    ],
)
def test_settings_reach_the_formula(loss: str, want: list[float]) -> None:
    got = policy_loss(LP, Q, A, loss=loss, clip_low=0.5, clip_high=1.5, beta=2.0)
    assert got.tolist() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": "pppo"}, "loss must be one of .* did you mean 'ppo'"),
        ({"clip_low": 2.0}, r"clip_low must be in \[0, clip_high = 1.2\], got 2.0"),
        ({"clip_low": math.nan}, "clip_low must be in .* got nan"),
        ({"beta": -1.0}, "beta must be finite and at least 0, got -1.0"),
        ({"advantages": A[:2]}, r"logprobs and advantages must have one shape \[T\], got \[3\]"),
        ({"sampler_logprobs": Q[None]}, "logprobs and sampler_logprobs must have one shape"),
    ],
)
def test_a_wrong_argument_is_named(changed: dict[str, object], said: str) -> None:
    args = {"logprobs": LP, "sampler_logprobs": Q, "advantages": A, **changed}
    with pytest.raises(ValueError, match=f"policy_loss: {said}"):
        policy_loss(**args)  # type: ignore[arg-type]
