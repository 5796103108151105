"""The definition of `row_loss`: plain torch, in float64, for torch to differentiate.

Letters of the policy losses: lp the learner's log probability of a token (the only one with a
gradient), q the sampler's, A the advantage, r = exp(lp - q).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .preference import DIVERGENCES, PREFERENCE_LOSSES, Pairs
from .terms import DEFAULTS, Settings, Term

Columns = Sequence[Tensor | None]


def row_loss(
    first: Tensor,
    second: Tensor | None = None,
    *constants: Tensor | None,
    terms: Sequence[Term],
    settings: Settings = DEFAULTS,
) -> Tensor:
    """The loss of each row [P], in the dtype of `first`; columns as README.md lists them."""
    wide = [None if c is None else c.double() for c in (first, second, *constants)]
    return losses(wide, terms, settings).to(first.dtype)


def losses(columns: Columns, terms: Sequence[Term], settings: Settings) -> Tensor:
    """The same in the dtype of the columns."""
    first = columns[0]
    assert first is not None, "the first column is the one that is trained"
    given = [torch.zeros_like(first) if c is None else c for c in columns]
    given += [torch.zeros_like(first)] * (7 - len(given))
    total = torch.zeros_like(first)
    for term in terms:
        total = total + term.weight * _loss(term, given, settings)
    return total


def _loss(term: Term, columns: Sequence[Tensor], settings: Settings) -> Tensor:
    if term.formula == "bradley_terry":
        chosen, rejected, margin, ties, *_ = columns
        return bradley_terry(chosen, rejected, margin, ties, settings.centering)
    if term.formula in POLICY_LOSSES:
        return POLICY_LOSSES[term.formula](columns[0], columns[2], columns[3], settings)
    return PREFERENCE_LOSSES[term.formula](pairs_of(columns, term.smoothing, settings))


def pairs_of(columns: Sequence[Tensor], smoothing: float, settings: Settings) -> Pairs:
    """The seven columns of a preference loss as its formulas take them."""
    chosen, rejected, reference_chosen, reference_rejected, *lengths, margins = columns
    seen = DIVERGENCES[settings.divergence]
    return Pairs(
        chosen=seen(chosen - reference_chosen, settings.alpha),
        rejected=seen(rejected - reference_rejected, settings.alpha),
        chosen_lengths=lengths[0],
        rejected_lengths=lengths[1],
        beta=settings.beta,
        wanted=margins,
        smoothing=smoothing,
        reward_mean=settings.reward_mean,
        tau=settings.tau,
    )


def bradley_terry(
    chosen: Tensor, rejected: Tensor, margin: Tensor, ties: Tensor, centering: float
) -> Tensor:
    """-log s(d - m) + c (r_c + r_r)^2; for a tie the first is -log s(d) / 2 - log s(-d) / 2.

    Source: Bradley and Terry 1952, https://doi.org/10.2307/2334029; with a margin, Llama 2, Touvron
        et al. 2023, eq. 2, https://arxiv.org/abs/2307.09288; centring, Eisenstein et al. 2023,
        https://arxiv.org/abs/2312.09244
    """
    d = chosen - rejected
    # logsigmoid, not log(sigmoid): the latter underflows to -inf.
    equal = -(logsigmoid(d) + logsigmoid(-d)) / 2
    decided = -logsigmoid(d - margin)
    return torch.where(ties != 0, equal, decided) + centering * (chosen + rejected) ** 2


def importance_sampling(lp: Tensor, q: Tensor, a: Tensor, settings: Settings) -> Tensor:
    """-r A"""
    return -torch.exp(lp - q) * a


def ppo(lp: Tensor, q: Tensor, a: Tensor, settings: Settings) -> Tensor:
    """-min(r A, clip(r) A). Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347"""
    ratio = torch.exp(lp - q)
    return -torch.minimum(ratio * a, _clip(ratio, settings) * a)


def cispo(lp: Tensor, q: Tensor, a: Tensor, settings: Settings) -> Tensor:
    """-sg(clip(r)) lp A. Source: MiniMax 2025, eq. 4, https://arxiv.org/abs/2506.13585"""
    return -_clip(torch.exp(lp - q), settings).detach() * lp * a


def dro(lp: Tensor, q: Tensor, a: Tensor, settings: Settings) -> Tensor:
    """-(lp A - beta/2 (lp - q)^2). Source: Richemond et al. 2024, https://arxiv.org/abs/2405.19107"""
    return -(lp * a - settings.beta / 2 * (lp - q) ** 2)


def _clip(ratio: Tensor, settings: Settings) -> Tensor:
    return ratio.clamp(settings.clip_low, settings.clip_high)


Policy = Callable[[Tensor, Tensor, Tensor, Settings], Tensor]
POLICY_LOSSES: Final[Mapping[str, Policy]] = MappingProxyType(
    {loss.__name__: loss for loss in (importance_sampling, ppo, cispo, dro)}
)

FORMULAS: Final = ("bradley_terry", *PREFERENCE_LOSSES, *POLICY_LOSSES)
"""Every formula by name."""
