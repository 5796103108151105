"""Preference losses of pairs, and divergences from the reference, in torch: the definitions.

Letters: c the chosen and r the rejected answer of a pair; d the log ratio of an answer, its log
probability under the policy minus that under the reference, in nats; s the logistic function;
e the label smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Pairs:
    """What a loss looks at; all tensors are [P].

    Args:
        chosen, rejected: log ratios d_c, d_r, in nats, as the divergence sees them.
        chosen_lengths, rejected_lengths: answer tokens, for the losses that ask for them.
        beta: strength of the pull to the reference, per nat.
        wanted: the margin that is taken off the difference of the two rewards.
        smoothing: e, the share of pairs whose label is taken to be wrong.
        reward_mean: what `bco_pair` subtracts from rewards.
        tau: temperature of `discopop`.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor
    beta: float
    wanted: Tensor
    smoothing: float
    reward_mean: float
    tau: float

    @property
    def margin(self) -> Tensor:
        """beta (d_c - d_r), the difference of the two rewards, less the pair's margin."""
        return self.beta * (self.chosen - self.rejected) - self.wanted

    def per_token(self) -> tuple[Tensor, Tensor]:
        """d_c / |c| and d_r / |r|."""
        return self.chosen / self.chosen_lengths, self.rejected / self.rejected_lengths


def sigmoid(p: Pairs) -> Tensor:
    """-(1 - e) log s(m) - e log s(-m), m = beta (d_c - d_r).

    Source: DPO, Rafailov et al. 2023, eq. 7, https://arxiv.org/abs/2305.18290; with e, conservative
    DPO, Mitchell 2023, eq. 3, https://ericmitchell.ai/cdpo.pdf
    """
    return _smoothed(p.margin, p.smoothing)


def hinge(p: Pairs) -> Tensor:
    """max(0, 1 - m), m = beta (d_c - d_r).

    Source: SLiC-HF, Zhao et al. 2023, https://arxiv.org/abs/2305.10425, over log ratios as in RSO,
    Liu et al. 2023, https://arxiv.org/abs/2309.06657
    """
    return torch.relu(1.0 - p.margin)


def ipo(p: Pairs) -> Tensor:
    """(d_c / |c| - d_r / |r| - 1 / (2 beta))^2.

    The log ratios are means over the answer's tokens, as TRL takes them on the authors' advice.

    Source: Azar et al. 2023, eq. 17 (tau is beta here), https://arxiv.org/abs/2310.12036
    """
    chosen, rejected = p.per_token()
    return (chosen - rejected - 1.0 / (2.0 * p.beta)) ** 2


def robust(p: Pairs) -> Tensor:
    """(-(1 - e) log s(m) + e log s(-m)) / (1 - 2 e): unbiased, if a share e of labels is wrong.

    Source: Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409
    """
    e, m = p.smoothing, p.margin
    return (-(1.0 - e) * logsigmoid(m) + e * logsigmoid(-m)) / (1.0 - 2.0 * e)


def exo_pair(p: Pairs) -> Tensor:
    """s(m) (log s(m) - log(1 - e)) + s(-m) (log s(-m) - log e), the reverse KL of the labels.

    Source: Ji et al. 2024, eq. 16, https://arxiv.org/abs/2402.00856
    """
    e, m = torch.tensor(p.smoothing, dtype=p.chosen.dtype), p.margin
    right = torch.sigmoid(m) * (logsigmoid(m) - torch.log1p(-e))
    return right + torch.sigmoid(-m) * (logsigmoid(-m) - torch.log(e))


def nca_pair(p: Pairs) -> Tensor:
    """-log s(beta d_c) - log s(-beta d_c) / 2 - log s(-beta d_r) / 2.

    Source: Chen et al. 2024, https://arxiv.org/abs/2402.05369
    """
    chosen, rejected = p.beta * p.chosen, p.beta * p.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(p: Pairs) -> Tensor:
    """-log s(beta d_c - delta) - log s(-(beta d_r - delta)), delta the mean of rewards so far.

    Source: Jung et al. 2024, https://arxiv.org/abs/2404.04656
    """
    chosen = p.beta * p.chosen - p.reward_mean
    rejected = p.beta * p.rejected - p.reward_mean
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo_hard(p: Pairs) -> Tensor:
    """(d_c - 1 / (2 beta))^2 + (d_r + 1 / (2 beta))^2; the label is a certain win.

    Source: Wu et al. 2024, https://arxiv.org/abs/2405.00675
    """
    half = 0.5 / p.beta
    return (p.chosen - half) ** 2 + (p.rejected + half) ** 2


def apo_zero(p: Pairs) -> Tensor:
    """1 - s(beta d_c) + s(beta d_r): chosen up, rejected down.

    Source: D'Oosterlinck et al. 2024, eq. 7, https://arxiv.org/abs/2408.06266
    """
    return 1.0 - torch.sigmoid(p.beta * p.chosen) + torch.sigmoid(p.beta * p.rejected)


def apo_down(p: Pairs) -> Tensor:
    """s(beta d_c) + 1 - s(beta (d_c - d_r)): both down, rejected further.

    Source: D'Oosterlinck et al. 2024, eq. 8, https://arxiv.org/abs/2408.06266
    """
    return torch.sigmoid(p.beta * p.chosen) + 1.0 - torch.sigmoid(p.margin)


def discopop(p: Pairs) -> Tensor:
    """-(1 - g) log s(m) + g exp(-m), g = s(m / tau).

    Source: LRML, Lu et al. 2024, eq. 5, https://arxiv.org/abs/2406.08414
    """
    m = p.margin
    # The gate times exp(-m), which alone could be infinite where the gate is 0.
    gated = torch.exp(logsigmoid(m / p.tau) - m)
    return -torch.sigmoid(-m / p.tau) * logsigmoid(m) + gated


def sigmoid_norm(p: Pairs) -> Tensor:
    """-log s(m), m = beta (d_c / |c| - d_r / |r|).

    Source: Tulu 3, Lambert et al. 2024, eq. 6, https://arxiv.org/abs/2411.15124
    """
    chosen, rejected = p.per_token()
    return -logsigmoid(p.beta * (chosen - rejected))


def _smoothed(margin: Tensor, smoothing: float) -> Tensor:
    # logsigmoid, not log(sigmoid): the latter underflows to -inf at -89 in float32.
    return -(1.0 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


PREFERENCE_LOSSES: Final[Mapping[str, Callable[[Pairs], Tensor]]] = MappingProxyType(
    {
        loss.__name__: loss
        for loss in (
            sigmoid,
            hinge,
            ipo,
            robust,
            exo_pair,
            nca_pair,
            bco_pair,
            sppo_hard,
            apo_zero,
            apo_down,
            discopop,
            sigmoid_norm,
        )
    }
)
"""Every loss by name."""


# exp of more is infinite in float32; a loss that has come so far has no gradient to give anyway.
# formulas.h has the same number.
_LARGEST: Final = 80.0


def reverse_kl(d: Tensor, alpha: float) -> Tensor:
    """d: f'(u) = log u + 1, the divergence of DPO itself."""
    return d


def forward_kl(d: Tensor, alpha: float) -> Tensor:
    """1 - exp(-d): f'(u) = -1 / u."""
    return 1.0 - torch.exp((-d).clamp(max=_LARGEST))


def js(d: Tensor, alpha: float) -> Tensor:
    """log(2 u / (1 + u)), u = exp(d): f' of the Jensen-Shannon divergence."""
    return logsigmoid(d) + math.log(2.0)


def alpha_divergence(d: Tensor, alpha: float) -> Tensor:
    """(1 - exp(-alpha d)) / alpha: f'(u) = (1 - u^-alpha) / alpha, between the two KLs."""
    return (1.0 - torch.exp((-alpha * d).clamp(max=_LARGEST))) / alpha


DIVERGENCES: Final[Mapping[str, Callable[[Tensor, float], Tensor]]] = MappingProxyType(
    {
        "reverse_kl": reverse_kl,
        "forward_kl": forward_kl,
        "js": js,
        "alpha": alpha_divergence,
    }
)
"""What takes the place of a log ratio d under each divergence from the reference, less its value at
d = 0, so that a policy that is its own reference still earns nothing.

Source: Wang et al. 2023, table 1, https://arxiv.org/abs/2309.16240
"""
