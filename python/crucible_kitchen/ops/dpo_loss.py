"""`dpo_loss`: losses of direct preference optimization, over log probabilities of whole answers.

Plain torch: P pairs are a few numbers, and what costs time is the model that gave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crucible_kitchen.errors import did_you_mean

from ._dpo_formulas import DIVERGENCES, DPO_LOSSES, Pairs

_EXO_SMOOTHING: Final = 1e-3
_ALPHA: Final = 0.5
_OF_THE_DIFFERENCE: Final = frozenset(
    {"sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", "sigmoid_norm"}
)
"""Losses that see only the difference of the two answers to a prompt. Under a divergence other than
reverse KL, what stands for a log ratio is known up to a term of the prompt, which cancels there."""

WITH_MARGINS: Final = frozenset({"sigmoid", "hinge", "robust", "exo_pair", "discopop"})
"""Losses of beta (d_c - d_r), which a pair's margin can be taken off."""

_BY_LENGTH: Final = frozenset({"ipo", "sigmoid_norm"})
_SMOOTHED: Final = frozenset({"sigmoid", "robust", "exo_pair", "aot", "aot_unpaired"})


def answer_logprobs(logprobs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The log probability of each answer, as the weighted sum over its tokens; differentiable.

    Args:
        logprobs: one tensor [T] an answer, in nats, of its own T.
        weights: likewise; 1 on the answer's tokens, 0 elsewhere.

    Returns:
        One number an answer, float64: differences of sums over long answers lose digits in float32.
    """
    sums = [(lp.double() * w.to(lp.device)).sum() for lp, w in zip(logprobs, weights, strict=True)]
    return torch.stack(sums)


Numbers = Tensor | npt.NDArray[np.float64]
"""One number a pair, [P]; arrays of numpy are constants to differentiation."""


def dpo_loss(
    policy_chosen: Numbers,
    policy_rejected: Numbers,
    reference_chosen: Numbers,
    reference_rejected: Numbers,
    *,
    loss: str | Mapping[str, float] = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float | None = None,
    chosen_lengths: Numbers | None = None,
    rejected_lengths: Numbers | None = None,
    reward_mean: float = 0.0,
    tau: float = 0.05,
    sft_weight: float = 0.0,
    margins: Numbers | None = None,
    divergence: str = "reverse_kl",
    alpha: float | None = None,
) -> Tensor:
    """The loss of each pair, from the log probabilities of its two answers; differentiable.

    Args:
        policy_chosen, policy_rejected: sums over the answer's tokens, in nats, [P].
        reference_chosen, reference_rejected: likewise, of the frozen model.
        loss: a name in `DPO_LOSSES`, where the formulas stand, or several with the weight that each
            has in their sum.
        beta: strength of the pull to the reference, per nat, above 0.
        label_smoothing: in [0, 0.5); None for the loss's own, 1e-3 of ``exo_pair`` and else 0. Only
            ``sigmoid``, ``robust``, ``exo_pair``, ``aot`` and ``aot_unpaired`` take one; the others
            of a mixture go without.
        chosen_lengths, rejected_lengths: tokens of the answers, [P]; ``ipo`` and ``sigmoid_norm``
            need them.
        reward_mean: mean of the rewards beta d so far; read by ``bco_pair``.
        tau: temperature, above 0; read by ``discopop``.
        sft_weight: how much of the chosen answer's negative log probability per token is added
            (Pang et al. 2024, eq. 1, https://arxiv.org/abs/2404.19733); above 0 it needs lengths.
        margins: by how much the chosen reward beta d should at least be higher, [P]; None for 0.
            Losses in `WITH_MARGINS` take it off the difference of the rewards (ODPO, Amini et al.
            2024, section 3, https://arxiv.org/abs/2402.10571); the others cannot.
        divergence: a name in `DIVERGENCES`; losses of more than the difference of the two answers
            know only ``reverse_kl``.
        alpha: of the divergence ``alpha``, in (0, 1), None for 0.5; the others have none.

    Returns:
        [P], in the dtype of `policy_chosen` and on its device, where the rest is brought.

    Raises:
        ValueError: an unknown loss, other shapes, or a number out of its range.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290
    """
    parts = {loss: 1.0} if isinstance(loss, str) else dict(loss)
    _check_losses(parts, label_smoothing, beta=beta, tau=tau)
    _check_divergence(parts, divergence, alpha)
    if not 0.0 <= sft_weight < float("inf"):
        raise ValueError(f"dpo_loss: sft_weight must be finite and at least 0, got {sft_weight}")
    policy = torch.as_tensor(policy_chosen)
    given: dict[str, Numbers | None] = {
        "policy_chosen": policy,
        "policy_rejected": policy_rejected,
        "reference_chosen": reference_chosen,
        "reference_rejected": reference_rejected,
    }
    if sft_weight or not _BY_LENGTH.isdisjoint(parts):
        given |= {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    if margins is not None:
        _check_margins(parts)
        given |= {"margins": margins}
    label = ", ".join(parts)
    numbers = {name: _numbers(name, values, policy, label) for name, values in given.items()}
    seen, alpha = DIVERGENCES[divergence], _ALPHA if alpha is None else alpha
    pairs = Pairs(
        chosen=seen(policy - numbers["reference_chosen"], alpha),
        rejected=seen(numbers["policy_rejected"] - numbers["reference_rejected"], alpha),
        policy_margin=policy - numbers["policy_rejected"],
        reference_margin=numbers["reference_chosen"] - numbers["reference_rejected"],
        chosen_lengths=numbers.get("chosen_lengths"),
        rejected_lengths=numbers.get("rejected_lengths"),
        beta=beta,
        wanted=numbers.get("margins", torch.zeros_like(policy)),
        smoothing=0.0,
        reward_mean=reward_mean,
        tau=tau,
    )
    losses = sum(
        weight * DPO_LOSSES[name](replace(pairs, smoothing=_smoothing(name, label_smoothing)))
        for name, weight in parts.items()
    )
    assert isinstance(losses, Tensor)  # there is at least one
    return losses - sft_weight * policy / numbers["chosen_lengths"] if sft_weight else losses


def _smoothing(loss: str, given: float | None) -> float:
    if loss not in _SMOOTHED:
        return 0.0
    own = _EXO_SMOOTHING if loss == "exo_pair" else 0.0
    return own if given is None else given


def _numbers(name: str, values: Numbers | None, policy: Tensor, loss: str) -> Tensor:
    """One argument as a tensor beside the policy's."""
    if values is None:
        raise ValueError(f"dpo_loss: {name} must be given for {loss!r}, got None")
    made = torch.as_tensor(values, dtype=policy.dtype, device=policy.device)
    if made.ndim != 1 or made.shape != policy.shape:
        raise ValueError(
            f"dpo_loss: {name} must have shape [P] = {list(policy.shape)}, got {list(made.shape)}"
        )
    return made


def _check_losses(
    parts: Mapping[str, float], label_smoothing: float | None, **positive: float
) -> None:
    if not parts:
        raise ValueError("dpo_loss: loss must name at least one, got none")
    for name, weight in parts.items():
        if name not in DPO_LOSSES:
            raise ValueError(
                f"dpo_loss: loss must be one of {', '.join(DPO_LOSSES)}, got {name!r}; "
                f"{did_you_mean(name, DPO_LOSSES)}"
            )
        positive[f"the weight of {name}"] = weight
    for name, value in positive.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"dpo_loss: {name} must be a finite number above 0, got {value}")
    if label_smoothing is None:
        return
    if _SMOOTHED.isdisjoint(parts):
        names = ", ".join(map(repr, parts))
        raise ValueError(f"dpo_loss: label_smoothing must be None for {names}, which has none")
    if not 0.0 <= label_smoothing < 0.5 or ("exo_pair" in parts and label_smoothing == 0.0):
        least = "above 0" if "exo_pair" in parts else "at least 0"
        raise ValueError(
            f"dpo_loss: label_smoothing must be {least} and below 0.5, got {label_smoothing}"
        )


def _check_margins(parts: Mapping[str, float]) -> None:
    for name in parts:
        if name not in WITH_MARGINS:
            raise ValueError(
                f"dpo_loss: margins must be None for {name!r}; "
                f"{', '.join(sorted(WITH_MARGINS))} take them"
            )


def _check_divergence(parts: Mapping[str, float], divergence: str, alpha: float | None) -> None:
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"dpo_loss: divergence must be one of {', '.join(DIVERGENCES)}, got {divergence!r}; "
            f"{did_you_mean(divergence, DIVERGENCES)}"
        )
    for name in parts:
        if divergence != "reverse_kl" and name not in _OF_THE_DIFFERENCE:
            raise ValueError(
                f"dpo_loss: divergence must be 'reverse_kl' for {name!r}, got {divergence!r}"
            )
    if alpha is not None and divergence != "alpha":
        raise ValueError(f"dpo_loss: alpha must be None for {divergence!r}, which has none")
    if alpha is not None and not 0.0 < alpha < 1.0:
        raise ValueError(f"dpo_loss: alpha must be in (0, 1), got {alpha}")
