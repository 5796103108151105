"""`dpo_loss`: losses of direct preference optimization, over log probabilities of whole answers.

Plain torch: P pairs are a few numbers, and what costs time is the model that gave them.

Letters: c the chosen and r the rejected answer of a pair; d the log ratio of an answer, its log
probability under the policy minus that under the reference, in nats; s the logistic function;
e the label smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from crucible_kitchen.errors import did_you_mean

_EXO_SMOOTHING: Final = 1e-3


@dataclass(frozen=True)
class Pairs:
    """What a loss looks at; all tensors are [P].

    Args:
        chosen, rejected: log ratios d_c, d_r, in nats.
        policy_margin, reference_margin: log probability of c minus that of r, in nats.
        chosen_lengths, rejected_lengths: answer tokens; None where no loss asked for them.
        beta: strength of the pull to the reference, per nat.
        smoothing: e, the share of pairs whose label is taken to be wrong.
        reward_mean: what `bco_pair` subtracts from rewards.
        tau: temperature of `discopop`.
    """

    chosen: Tensor
    rejected: Tensor
    policy_margin: Tensor
    reference_margin: Tensor
    chosen_lengths: Tensor | None
    rejected_lengths: Tensor | None
    beta: float
    smoothing: float
    reward_mean: float
    tau: float

    @property
    def margin(self) -> Tensor:
        """beta (d_c - d_r), the difference of the two rewards."""
        return self.beta * (self.chosen - self.rejected)

    def per_token(self) -> tuple[Tensor, Tensor]:
        """d_c / |c| and d_r / |r|."""
        assert self.chosen_lengths is not None  # dpo_loss has checked them
        assert self.rejected_lengths is not None
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


def aot(p: Pairs) -> Tensor:
    """`sigmoid` of beta times the sorted policy margins minus the sorted reference margins.

    It wants the policy's margins to dominate the reference's as a distribution, so pair i of the
    result is a quantile and no pair of the input.

    Source: Melnyk et al. 2024, paired alignment, https://arxiv.org/abs/2406.05882
    """
    quantiles = p.policy_margin.sort().values - p.reference_margin.sort().values
    return _smoothed(p.beta * quantiles, p.smoothing)


def aot_unpaired(p: Pairs) -> Tensor:
    """`sigmoid` of beta times the sorted d_c minus the sorted d_r; see `aot`.

    Source: Melnyk et al. 2024, unpaired alignment, https://arxiv.org/abs/2406.05882
    """
    quantiles = p.chosen.sort().values - p.rejected.sort().values
    return _smoothed(p.beta * quantiles, p.smoothing)


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
    gate = torch.sigmoid(m / p.tau)
    return -(1.0 - gate) * logsigmoid(m) + gate * torch.exp(-m)


def sigmoid_norm(p: Pairs) -> Tensor:
    """-log s(m), m = beta (d_c / |c| - d_r / |r|).

    Source: Tulu 3, Lambert et al. 2024, eq. 6, https://arxiv.org/abs/2411.15124
    """
    chosen, rejected = p.per_token()
    return -logsigmoid(p.beta * (chosen - rejected))


def _smoothed(margin: Tensor, smoothing: float) -> Tensor:
    # logsigmoid, not log(sigmoid): the latter underflows to -inf at -89 in float32.
    return -(1.0 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


DPO_LOSSES: Final[Mapping[str, Callable[[Pairs], Tensor]]] = MappingProxyType(
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
            aot,
            aot_unpaired,
            apo_zero,
            apo_down,
            discopop,
            sigmoid_norm,
        )
    }
)
"""Every loss by name."""

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
    loss: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float | None = None,
    chosen_lengths: Numbers | None = None,
    rejected_lengths: Numbers | None = None,
    reward_mean: float = 0.0,
    tau: float = 0.05,
    sft_weight: float = 0.0,
) -> Tensor:
    """The loss of each pair, from the log probabilities of its two answers; differentiable.

    Args:
        policy_chosen, policy_rejected: sums over the answer's tokens, in nats, [P].
        reference_chosen, reference_rejected: likewise, of the frozen model.
        loss: a name in `DPO_LOSSES`, where the formulas stand.
        beta: strength of the pull to the reference, per nat, above 0.
        label_smoothing: in [0, 0.5); None for the loss's own, 1e-3 of ``exo_pair`` and else 0. Only
            ``sigmoid``, ``robust``, ``exo_pair``, ``aot`` and ``aot_unpaired`` take one.
        chosen_lengths, rejected_lengths: tokens of the answers, [P]; ``ipo`` and ``sigmoid_norm``
            need them.
        reward_mean: mean of the rewards beta d so far; read by ``bco_pair``.
        tau: temperature, above 0; read by ``discopop``.
        sft_weight: how much of the chosen answer's negative log probability per token is added
            (Pang et al. 2024, eq. 1, https://arxiv.org/abs/2404.19733); above 0 it needs lengths.

    Returns:
        [P], in the dtype of `policy_chosen` and on its device, where the rest is brought.

    Raises:
        ValueError: an unknown loss, other shapes, or a number out of its range.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290
    """
    _check_loss(loss, label_smoothing, beta=beta, tau=tau)
    if not 0.0 <= sft_weight < float("inf"):
        raise ValueError(f"dpo_loss: sft_weight must be finite and at least 0, got {sft_weight}")
    policy = torch.as_tensor(policy_chosen)
    given: dict[str, Numbers | None] = {
        "policy_chosen": policy,
        "policy_rejected": policy_rejected,
        "reference_chosen": reference_chosen,
        "reference_rejected": reference_rejected,
    }
    if loss in _BY_LENGTH or sft_weight:
        given |= {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    numbers = {name: _numbers(name, values, policy, loss) for name, values in given.items()}
    own = _EXO_SMOOTHING if loss == "exo_pair" else 0.0
    losses = DPO_LOSSES[loss](
        Pairs(
            chosen=policy - numbers["reference_chosen"],
            rejected=numbers["policy_rejected"] - numbers["reference_rejected"],
            policy_margin=policy - numbers["policy_rejected"],
            reference_margin=numbers["reference_chosen"] - numbers["reference_rejected"],
            chosen_lengths=numbers.get("chosen_lengths"),
            rejected_lengths=numbers.get("rejected_lengths"),
            beta=beta,
            smoothing=own if label_smoothing is None else label_smoothing,
            reward_mean=reward_mean,
            tau=tau,
        )
    )
    return losses - sft_weight * policy / numbers["chosen_lengths"] if sft_weight else losses


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


def _check_loss(loss: str, label_smoothing: float | None, **positive: float) -> None:
    if loss not in DPO_LOSSES:
        raise ValueError(
            f"dpo_loss: loss must be one of {', '.join(DPO_LOSSES)}, got {loss!r}; "
            f"{did_you_mean(loss, DPO_LOSSES)}"
        )
    for name, value in positive.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"dpo_loss: {name} must be a finite number above 0, got {value}")
    if label_smoothing is None:
        return
    if loss not in _SMOOTHED:
        raise ValueError(f"dpo_loss: label_smoothing must be None for {loss!r}, which has none")
    if not 0.0 <= label_smoothing < 0.5 or (loss == "exo_pair" and label_smoothing == 0.0):
        least = "above 0" if loss == "exo_pair" else "at least 0"
        raise ValueError(
            f"dpo_loss: label_smoothing must be {least} and below 0.5, got {label_smoothing}"
        )
