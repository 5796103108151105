"""Which losses a `TrainingClient` knows, as data, so that every adapter refuses the same things."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from crucible_kitchen.errors import ConfigError, DataError, did_you_mean
from crucible_kitchen.types import TOKEN_INPUTS, Datum
from crucible_kitchen.types.record import finite


@dataclass(frozen=True)
class Loss:
    """A loss of one token.

    Args:
        name: what `forward_backward` calls it.
        formula: with lp the learner's log probability of the target, q the sampler's, A the
            advantage, w the weight, r = exp(lp - q), and sg for "no gradient through this".
        inputs: the loss inputs it needs. ``weights`` may come with any loss and multiply it.
        config: its keys and their defaults.
    """

    name: str
    formula: str
    inputs: tuple[str, ...]
    config: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


_CLIP: Final = MappingProxyType({"clip_low_threshold": 0.8, "clip_high_threshold": 1.2})
_POLICY_INPUTS: Final = ("target_tokens", "logprobs", "advantages")

LOSSES: Final[Mapping[str, Loss]] = MappingProxyType(
    {
        loss.name: loss
        for loss in (
            Loss("cross_entropy", "-w lp", ("target_tokens", "weights")),
            Loss("importance_sampling", "-r A", _POLICY_INPUTS),
            Loss("ppo", "-min(r A, clip(r, lo, hi) A)", _POLICY_INPUTS, _CLIP),
            Loss("cispo", "-sg(clip(r, lo, hi)) lp A", _POLICY_INPUTS, _CLIP),
            Loss(
                "dro",
                "-(lp A - beta/2 (lp - q)^2)",
                _POLICY_INPUTS,
                MappingProxyType({"beta": 0.05}),
            ),
        )
    }
)

CUSTOM_INPUTS: Final = ("target_tokens",)
"""What `forward_backward_custom` needs of a datum."""


def check_loss(loss_fn: str, loss_fn_config: Mapping[str, float] | None = None) -> dict[str, float]:
    """The settings of a loss, defaults filled in.

    Raises:
        ConfigError: an unknown loss or key, with the known ones; or a value it cannot take.
    """
    loss = LOSSES.get(loss_fn) if isinstance(loss_fn, str) else None
    if loss is None:
        raise ConfigError(
            f"forward_backward: loss_fn must be one of {', '.join(LOSSES)}, got {loss_fn!r}"
        )
    settings = dict(loss.config)
    for key, value in (loss_fn_config or {}).items():
        if key not in settings:
            raise ConfigError(f"forward_backward: {_unknown_key(key, loss)}")
        try:
            settings[key] = finite("forward_backward", key, value, low=0.0)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
    low, high = settings.get("clip_low_threshold", 0.0), settings.get("clip_high_threshold", 0.0)
    if low > high:
        raise ConfigError(
            "forward_backward: clip_low_threshold must be at most clip_high_threshold, "
            f"got {low} and {high}"
        )
    return settings


def _unknown_key(key: Any, loss: Loss) -> str:
    said = f"loss_fn_config has an unknown key {key!r} for {loss.name}; "
    if not loss.config:
        return said + "it has no keys"
    advice = did_you_mean(str(key), loss.config)
    known = f"its keys: {', '.join(loss.config)}"
    return said + (f"{known}; {advice}" if advice.startswith("did") else known)


def check_datums(
    datums: Iterable[Any], loss_fn: str | None, *, head: str = "vocabulary"
) -> list[Datum]:
    """A batch as datums that have what a loss needs.

    Args:
        datums: `Datum` values, or mappings that hold their fields.
        loss_fn: a known loss; None for `forward_backward_custom`.
        head: of the session; a ``scalar`` one needs tokens alone.
    Raises:
        DataError: no datums, or one (named by its index) that is malformed, has no tokens, lacks an
            input, has a negative target, or a value that is not finite.
    """
    inputs = CUSTOM_INPUTS if loss_fn is None else LOSSES[loss_fn].inputs
    if head == "scalar":
        inputs = ()
    checked = []
    for index, value in enumerate(datums):
        try:
            datum = Datum.coerce(value)
            _check_inputs(datum, inputs, loss_fn)
        except (TypeError, ValueError) as error:
            raise DataError(f"forward_backward: datums[{index}]: {error}") from error
        checked.append(datum)
    if not checked:
        raise DataError("forward_backward: datums must hold at least one datum, got none")
    return checked


def _check_inputs(datum: Datum, inputs: tuple[str, ...], loss_fn: str | None) -> None:
    given = datum.loss_fn_inputs
    absent = [name for name in inputs if name not in given]
    if absent:
        raise ValueError(
            f"{loss_fn or 'a custom loss'} must have {', '.join(inputs)}; "
            f"{', '.join(absent)} not among {', '.join(given) or 'no inputs at all'}"
        )
    if datum.model_input.length == 0:
        raise ValueError("model_input must hold at least one token, got none")
    for name in TOKEN_INPUTS:
        if name not in given:
            continue
        values = given[name].numpy()
        if name == "target_tokens":
            if values.min() < 0:
                raise ValueError(
                    f"target_tokens must be at least 0, got {values.min()}; give a token that is "
                    "not trained the weight 0"
                )
        elif not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
