"""The definition of `linear_logprobs`: float64 inside, the whole [T, V] in memory, no tricks.

`forward` is differentiable by autograd; its `slope`, and `grad_weight`, are the same derivatives
written out by hand, and the tests hold the two against each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.hash import BITS, mix_tensor, seed_key

from .variant import Forward, Sampled, Sum, Variant


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
    want_slope: bool = True,
) -> Forward:
    """Log-probabilities and, where wanted, their slope in `hidden`.

    Args:
        hidden: activations, [T, H].
        weight: the head, [V, H].
        targets: token ids, each in [0, V), [T] int64.
        logit_softcap: c > 0 replaces a logit z by c tanh(z / c); 0 leaves it.
        label_smoothing: share of the target's mass spread evenly over V, in [0, 1].
        want_slope: False leaves `slope` empty.
    """
    logits_TV, bend_TV = _logits(hidden, weight, logit_softcap)
    logprobs_TV = logits_TV.log_softmax(-1)
    wanted_TV = _wanted(targets, weight.shape[0], label_smoothing)
    miss_TV = logprobs_TV.exp().scatter(-1, targets[:, None], 0.0)
    slope_TH = weight.new_zeros((0, weight.shape[1]))
    if want_slope:
        slope_TH = ((wanted_TV - logprobs_TV.exp()) * bend_TV) @ weight.double()
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return Forward(
        (wanted_TV * logprobs_TV).sum(-1).to(dtype),
        logits_TV.logsumexp(-1).to(dtype),
        miss_TV.sum(-1).to(dtype),
        slope_TH.to(dtype),
    )


def grad_weight(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    miss: Tensor,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Gradient in the head: sum over t of grad_t (q_tv - p_tv) hidden_t, [V, H] in weight's dtype.

    Args:
        grad: gradient of the loss in each log-probability, [T].
        lse, miss: from `forward`; the reference has no use for them.
    """
    logits_TV, bend_TV = _logits(hidden, weight, logit_softcap)
    wanted_TV = _wanted(targets, weight.shape[0], label_smoothing)
    pull_TV = (wanted_TV - logits_TV.softmax(-1)) * bend_TV * grad.double()[:, None]
    return (pull_TV.T @ hidden.double()).to(weight.dtype)


def sum_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, label_smoothing: float = 0.0
) -> Sum:
    """Log-probabilities, and both gradients of the sum of `factors`, [T], times them."""
    made = forward(hidden, weight, targets, 0.0, label_smoothing)
    dw = grad_weight(
        factors, hidden, weight, targets, made.lse, made.miss, label_smoothing=label_smoothing
    )
    return Sum(made.logprobs, factors[:, None] * made.slope, dw)


def sampled(hidden: Tensor, weight: Tensor, targets: Tensor, eps: float, seed: int) -> Sampled:
    """`forward` with a slope in which an entry of probability p below eps is drawn.

    It counts eps with probability p / eps, else nothing: if p >= u eps, for a hash u of the token,
    its row of the head and the seed.
    """
    exact = forward(hidden, weight, targets)
    p_TV = _logits(hidden, weight, 0.0)[0].softmax(-1)
    sure = p_TV.masked_fill(p_TV < eps, 0.0).scatter(-1, targets[:, None], 0.0).sum(-1)
    u_TV = _uniform(len(targets), len(weight), seed, hidden.device)
    counts_TV = torch.where(p_TV >= u_TV * eps, p_TV.clamp_min(eps), 0.0)
    counts_TV = counts_TV.scatter(-1, targets[:, None], -exact.miss[:, None].double())
    slope = (-counts_TV @ weight.double()).to(exact.slope.dtype)
    return Sampled(exact._replace(slope=slope), (1 - exact.miss + sure).to(exact.miss.dtype))


def _uniform(tokens: int, vocabulary: int, seed: int, device: torch.device) -> Tensor:
    """u in (0, 1], [T, V] float64, in steps of 2^-24; common/hash.h has the hash."""
    token = torch.arange(tokens, dtype=torch.int64, device=device)
    row = torch.arange(vocabulary, dtype=torch.int64, device=device)
    keys = mix_tensor(token & BITS ^ seed_key(seed))
    return ((mix_tensor(keys[:, None] ^ row) >> 8) + 1).double() * 2.0**-24


def _logits(hidden: Tensor, weight: Tensor, logit_softcap: float) -> tuple[Tensor, Tensor]:
    """Logits and their derivative in the product of hidden and weight."""
    logits_TV = hidden.double() @ weight.double().T
    if logit_softcap == 0.0:
        return logits_TV, torch.ones_like(logits_TV)
    bounded_TV = torch.tanh(logits_TV / logit_softcap)
    return logit_softcap * bounded_TV, 1 - bounded_TV * bounded_TV


def _wanted(targets: Tensor, vocabulary: int, label_smoothing: float) -> Tensor:
    """The smoothed target distribution, [T, V] float64."""
    one_hot_TV = torch.nn.functional.one_hot(targets, vocabulary).double()
    return (1 - label_smoothing) * one_hot_TV + label_smoothing / vocabulary


linear_logprobs = Variant(forward, grad_weight, sampled, sum_gradients)
