"""What the stages of preference training share: log probabilities of answers, losses, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from crucible_kitchen import data
from crucible_kitchen.data import Judgement, Pair, PairForm, Place, PreparedPairs
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import Row, Tokenizer
from crucible_kitchen.types import Datum, ForwardBackwardResult

if TYPE_CHECKING:
    from torch import Tensor

Sums = npt.NDArray[np.float64]
"""Log probabilities of answers, in nats: chosen and rejected of each pair in turn, [2P]."""

Reference = dict[int, tuple[float, float]]
"""The frozen model's log probabilities of a pair's answers, by the place of the pair."""


class LossOptions(NamedTuple):
    """Which loss, and what it is told; see `ops.dpo_loss`.

    Args:
        loss_type: a loss, or several with their weights.
        margin_weight: how much of a row's margin the reward of its chosen answer is to be higher.
        sft_weight: how much of the chosen answer's negative log probability per token is added.
    """

    loss_type: str | Mapping[str, float]
    beta: float
    margin_weight: float
    label_smoothing: float | None
    discopop_tau: float
    reward_mean: float
    sft_weight: float
    divergence: str
    divergence_alpha: float | None


def form_of(scored: bool, comparator: bool) -> PairForm:
    """What a recipe reads of a pair."""
    if comparator:
        return "compared"
    return "scored" if scored else "predicted"


def read_pairs(
    rows: Sequence[Row],
    places: Sequence[Place],
    tokenizer: Tokenizer,
    *,
    scored: bool,
    comparator: bool,
    ld_alpha: float | None,
    max_length: int,
    truncation: str,
    equal_answers: str,
) -> PreparedPairs:
    """Rows as pairs, of which the longer answer may count less."""
    made = data.prepare_pairs(
        rows,
        tokenizer,
        form=form_of(scored, comparator),
        max_length=max_length,
        truncation=truncation,
        equal_answers="drop" if equal_answers == "drop" else "error",
        places=places,
    )
    if ld_alpha is None:
        return made
    return replace(made, pairs=[data.desensitised(pair, ld_alpha) for pair in made.pairs])


def interleaved(pairs: Sequence[Pair]) -> list[Datum]:
    """Datums in the order chosen, rejected, chosen, rejected, ..."""
    return [datum for pair in pairs for datum in pair]


def sums_of(reference: Reference, places: Sequence[int]) -> Sums:
    """The frozen model's log probabilities of some pairs."""
    return np.asarray([value for place in places for value in reference[place]], np.float64)


def answer_sums(datums: Sequence[Datum], result: ForwardBackwardResult) -> Sums:
    """The log probabilities of the answers that a training client was given."""
    outputs = zip(datums, result.loss_fn_outputs, strict=True)
    return np.asarray([_weights(d) @ output["logprobs"].numpy() for d, output in outputs])


def answer_lengths(datums: Sequence[Datum]) -> Sums:
    """Tokens of each answer."""
    return np.asarray([_weights(datum).sum() for datum in datums])


def pair_losses(
    policy: Tensor | Sums,
    reference: Sums,
    lengths: Sums,
    judgements: Sequence[Judgement],
    options: LossOptions,
) -> Tensor:
    """The loss of each pair [P], differentiable in a `policy` [2P] that is a tensor.

    Raises:
        ConfigError: rows have a margin, and a loss has no place for it.
    """
    from crucible_kitchen import ops

    margins = options.margin_weight * np.asarray([one.margin for one in judgements], np.float64)
    names = [options.loss_type] if isinstance(options.loss_type, str) else options.loss_type
    if margins.any() and not ops.WITH_MARGINS.issuperset(names):
        raise ConfigError(
            f"loss_type must be of {', '.join(sorted(ops.WITH_MARGINS))} for rows with a "
            f"margin, got {options.loss_type!r}; margin_weight=0 leaves margins out"
        )

    return ops.dpo_loss(
        policy[0::2],
        policy[1::2],
        reference[0::2],
        reference[1::2],
        loss=options.loss_type,
        beta=options.beta,
        label_smoothing=options.label_smoothing,
        chosen_lengths=lengths[0::2],
        rejected_lengths=lengths[1::2],
        reward_mean=options.reward_mean,
        tau=options.discopop_tau,
        sft_weight=options.sft_weight,
        margins=margins if margins.any() else None,
        divergence=options.divergence,
        alpha=options.divergence_alpha,
    )


def preference_metrics(policy: Sums, reference: Sums, beta: float) -> dict[str, float]:
    """What a policy prefers, as means over pairs.

    Returns:
        ``rewards_chosen`` and ``rewards_rejected``, beta times the log ratio to the reference;
        their difference ``margin``; ``accuracy``, the share of pairs whose margin is above 0, which
        ties are not; ``logprobs_chosen`` and ``logprobs_rejected`` in nats.
    """
    rewards = beta * (policy - reference)
    margins = rewards[0::2] - rewards[1::2]
    return {
        "rewards_chosen": float(rewards[0::2].mean()),
        "rewards_rejected": float(rewards[1::2].mean()),
        "margin": float(margins.mean()),
        "accuracy": float((margins > 0).mean()),
        "logprobs_chosen": float(policy[0::2].mean()),
        "logprobs_rejected": float(policy[1::2].mean()),
    }


def _weights(datum: Datum) -> Any:
    return datum.loss_fn_inputs["weights"].numpy().astype(np.float64)
