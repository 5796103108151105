"""The formulas of `ports.LOSSES` in torch, per token; the weights are applied by the caller.

Letters: lp the learner's log probability (the only one with a gradient), q the sampler's, A the
advantage, r = exp(lp - q).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
Settings = Mapping[str, float]


def cross_entropy(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-lp"""
    return -lp


def importance_sampling(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-r A"""
    return -_ratio(lp, inputs) * inputs["advantages"]


def ppo(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-min(r A, clip(r) A). Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347"""
    ratio, advantages = _ratio(lp, inputs), inputs["advantages"]
    return -torch.minimum(ratio * advantages, _clip(ratio, settings) * advantages)


def cispo(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-sg(clip(r)) lp A. Source: MiniMax 2025, eq. 4, https://arxiv.org/abs/2506.13585"""
    return -_clip(_ratio(lp, inputs), settings).detach() * lp * inputs["advantages"]


def dro(lp: Tensor, inputs: Inputs, settings: Settings) -> Tensor:
    """-(lp A - beta/2 (lp - q)^2). Source: Richemond et al. 2024, https://arxiv.org/abs/2405.19107"""
    distance = lp - inputs["logprobs"]
    return -(lp * inputs["advantages"] - settings["beta"] / 2 * distance**2)


PER_TOKEN: Final[Mapping[str, Callable[[Tensor, Inputs, Settings], Tensor]]] = {
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
    "ppo": ppo,
    "cispo": cispo,
    "dro": dro,
}


def _ratio(lp: Tensor, inputs: Inputs) -> Tensor:
    return torch.exp(lp - inputs["logprobs"])


def _clip(ratio: Tensor, settings: Settings) -> Tensor:
    return ratio.clamp(settings["clip_low_threshold"], settings["clip_high_threshold"])
