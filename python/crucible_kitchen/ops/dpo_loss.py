"""`dpo_loss`: losses of direct preference optimization, over log probabilities of whole answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crucible_kitchen.errors import did_you_mean
from crucible_kitchen.kernels.row_loss.preference import DIVERGENCES, PREFERENCE_LOSSES
from crucible_kitchen.kernels.row_loss.terms import Settings, Term
from crucible_kitchen.ops.row_loss import row_loss

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


Columns = tuple[Tensor, Tensor, Tensor, Tensor]
"""Log probabilities of the chosen and the rejected answers, policy then reference, [P] each."""


def aot(policy_c: Tensor, policy_r: Tensor, reference_c: Tensor, reference_r: Tensor) -> Columns:
    """`sigmoid` of beta times the sorted policy margins minus the sorted reference margins.

    It wants the policy's margins to dominate the reference's as a distribution, so pair i of the
    result is a quantile and no pair of the input.

    Source: Melnyk et al. 2024, paired alignment, https://arxiv.org/abs/2406.05882
    """
    policy, reference = policy_c - policy_r, reference_c - reference_r
    zeros = torch.zeros_like(policy_c)
    return policy.sort().values, zeros, reference.sort().values, zeros


def aot_unpaired(
    policy_c: Tensor, policy_r: Tensor, reference_c: Tensor, reference_r: Tensor
) -> Columns:
    """`sigmoid` of beta times the sorted d_c minus the sorted d_r; see `aot`.

    Source: Melnyk et al. 2024, unpaired alignment, https://arxiv.org/abs/2406.05882
    """
    chosen, rejected = policy_c - reference_c, policy_r - reference_r
    zeros = torch.zeros_like(policy_c)
    return chosen.sort().values, rejected.sort().values, zeros, zeros


_OF_QUANTILES: Final[Mapping[str, Callable[..., Columns]]] = MappingProxyType(
    {"aot": aot, "aot_unpaired": aot_unpaired}
)
"""Losses that are `sigmoid` of other rows than the pairs."""

DPO_LOSSES: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {**PREFERENCE_LOSSES, **_OF_QUANTILES}
)
"""Every loss by name, with the function whose docstring has its formula and its source."""


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

    Computed by `row_loss`, in one pass for all losses of a mixture.

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
        TypeError: `policy_chosen` is not floating point.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290
    """
    parts = {loss: 1.0} if isinstance(loss, str) else dict(loss)
    _check_losses(parts, label_smoothing, beta=beta, tau=tau)
    _check_divergence(parts, divergence, alpha)
    if not 0.0 <= sft_weight < float("inf"):
        raise ValueError(f"dpo_loss: sft_weight must be finite and at least 0, got {sft_weight}")
    policy = torch.as_tensor(policy_chosen)
    if not policy.is_floating_point():
        raise TypeError(f"dpo_loss: policy_chosen must be floating point, got {policy.dtype}")
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
    settings = Settings(
        beta=beta,
        reward_mean=reward_mean,
        tau=tau,
        alpha=_ALPHA if alpha is None else alpha,
        divergence=divergence,
    )
    losses = _sum_of(
        [Term(name, weight, _smoothing(name, label_smoothing)) for name, weight in parts.items()],
        numbers,
        settings,
    )
    return losses - sft_weight * policy / numbers["chosen_lengths"] if sft_weight else losses


def _sum_of(terms: Sequence[Term], numbers: Mapping[str, Tensor], settings: Settings) -> Tensor:
    """Losses of the pairs in one pass, and those of other rows in one each."""
    answers = [
        numbers[name]
        for name in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    ]
    rest = [numbers.get(name) for name in ("chosen_lengths", "rejected_lengths", "margins")]
    of_pairs = [term for term in terms if term.formula not in _OF_QUANTILES]
    made = [row_loss(*answers, *rest, terms=of_pairs, settings=settings)] if of_pairs else []
    for term in terms:
        if quantiles := _OF_QUANTILES.get(term.formula):
            rows = quantiles(*answers)
            made.append(
                row_loss(*rows, terms=[term._replace(formula="sigmoid")], settings=settings)
            )
    return sum(made[1:], made[0])


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
