"""What the noop clients use for a model: log probabilities that rise as steps are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from crucible_kitchen.types import Datum, ForwardBackwardResult, TensorData

Floats = npt.NDArray[np.float64]

_START = 5.0  # nats per token before the first step, about log of the vocabulary's size
_FLOOR = 0.5  # and after very many
_HALVING = 8.0  # steps that halve the distance between the two


def targets(datum: Datum) -> npt.NDArray[np.int64]:
    """The tokens [T] whose log probabilities are asked for."""
    return datum.loss_fn_inputs["target_tokens"].numpy()


def logprobs(tokens: npt.NDArray[np.int64], learned: int) -> Floats:
    """Log probability of each token [T] after `learned` steps that learned, in nats.

    It falls with the token's id over a range of a factor two, so that a mistake in alignment shows.
    """
    nats = _FLOOR + (_START - _FLOOR) * 0.5 ** (learned / _HALVING)
    spread = 2.0 / 3.0 + (2.0 / 3.0) * (tokens % 97) / 96.0
    values: Floats = -nats * spread
    return values


def token_losses(
    loss_fn: str, settings: Mapping[str, float], lp: Floats, inputs: Mapping[str, Any]
) -> Floats:
    """The loss of each token [T], before its weight; the formulas stand in `ports.LOSSES`."""
    if loss_fn == "cross_entropy":
        return -lp
    q = inputs["logprobs"].numpy().astype(np.float64)
    advantages: Floats = inputs["advantages"].numpy().astype(np.float64)
    ratio: Floats = np.exp(lp - q)
    gain: Floats
    if loss_fn == "importance_sampling":
        gain = ratio * advantages
    elif loss_fn == "dro":
        gain = lp * advantages - settings["beta"] / 2 * (lp - q) ** 2
    else:
        clipped = np.clip(ratio, settings["clip_low_threshold"], settings["clip_high_threshold"])
        if loss_fn == "cispo":
            gain = clipped * lp * advantages
        else:
            gain = np.minimum(ratio * advantages, clipped * advantages)
    return -gain


def evaluate(
    batch: list[Datum], loss_fn: str, settings: Mapping[str, float], learned: int
) -> tuple[ForwardBackwardResult, float]:
    """The result for a batch, and how many tokens had a weight (their weights' absolute sum)."""
    total, weight_sum, weight_size = 0.0, 0.0, 0.0
    outputs: list[dict[str, TensorData]] = []
    for datum in batch:
        lp = logprobs(targets(datum), learned)
        losses = token_losses(loss_fn, settings, lp, datum.loss_fn_inputs)
        given = datum.loss_fn_inputs.get("weights")
        weights = np.ones_like(lp) if given is None else given.numpy().astype(np.float64)
        total += float(weights @ losses)
        weight_sum += float(weights.sum())
        weight_size += float(np.abs(weights).sum())
        outputs.append({"logprobs": TensorData(lp.astype(np.float32))})
    loss = total / weight_sum if weight_sum else 0.0
    return ForwardBackwardResult(loss, tuple(outputs), {"loss:sum": total}), weight_size
