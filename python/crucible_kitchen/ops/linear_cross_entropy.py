"""`linear_cross_entropy`: a linear head and its cross-entropy, on `linear_logprobs`."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from crucible_kitchen.errors import did_you_mean
from crucible_kitchen.ops._head_inputs import check, with_bias
from crucible_kitchen.ops._linear_logprobs_sum import gains, sum_of_logprobs
from crucible_kitchen.ops._sampled_slope import GradientMethod, eps_of
from crucible_kitchen.ops.linear_logprobs import score

Reduction = Literal["mean", "sum", "none"]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    logit_softcap: float | None = None,
    label_smoothing: float = 0.0,
    bias: Tensor | None = None,
    z_loss: float = 0.0,
    gradient: GradientMethod = "exact",
    seed: int = 0,
) -> Tensor:
    """Cross-entropy of softmax(hidden @ weight.T) against targets, [T, V] never in memory.

    A token whose target is `ignore_index` or whose weight is 0 is not computed at all. The mean and
    the sum over a trained head in float32 on the CPU have their gradients made with the loss, for
    one matrix product less than "none" takes; the others are as `linear_logprobs`'.

    Args:
        hidden: activations, [T, H], float32, bfloat16 or float16.
        weight: the head, [V, H], in hidden's dtype.
        targets: token ids in [0, V), or `ignore_index`, [T] int64.
        weights: factor of each token's loss, a constant, [T]; None is 1 everywhere.
        ignore_index: the target of a token that does not count.
        reduction: "sum" of weight times loss; "mean", that sum over the sum of the weights that
            count; "none", weight times loss of each token, [T].
        logit_softcap: c replaces a logit z by c tanh(z / c).
        label_smoothing: share of the target's mass spread evenly over the vocabulary, in [0, 1].
        bias: added to the logits, [V], in weight's dtype; see `linear_logprobs`.
        z_loss: factor of the squared log of the partition function, which is added to each token's
            loss and keeps the logits near zero (Chowdhery et al. 2022, section 5,
            https://arxiv.org/abs/2204.02311); not with a softcap and smoothing at once.
        gradient, seed: as `linear_logprobs` takes them; "sampled" not with a softcap or smoothing.

    Returns:
        Nats, float32. Where no token counts the result is 0 in every reduction, and so are its
        gradients: a batch without a trained token changes nothing (torch's mean is NaN there).

    Raises:
        ValueError: an option out of its range, shapes that do not fit, a target out of range.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.
    """
    op = "linear_cross_entropy"
    eps = eps_of(op, gradient)
    check(op, hidden, weight, targets)
    _check_options(op, targets, weights, reduction, logit_softcap, label_smoothing)
    if not z_loss >= 0.0 or (z_loss and logit_softcap and label_smoothing):
        raise ValueError(
            f"{op}: z_loss must be 0 or more, and 0 with a softcap and smoothing at once, "
            f"got {z_loss}"
        )
    if bias is not None:
        hidden, weight = with_bias(op, hidden, weight, bias)
    keep = targets != ignore_index
    if weights is not None:
        keep = keep & (weights != 0)
    if reduction != "none" and not (eps or z_loss or logit_softcap) and gains(hidden, weight):
        factors = keep.float() if weights is None else weights.float() * keep
        if reduction == "mean":
            factors = factors / torch.where(keep.any(), factors.sum(), 1.0)
        return sum_of_logprobs(
            op, hidden, weight, targets, -factors, keep=keep, label_smoothing=label_smoothing
        )
    made = score(
        op,
        hidden,
        weight,
        targets,
        keep=keep,
        logit_softcap=logit_softcap or 0.0,
        label_smoothing=label_smoothing,
        want_lse=z_loss > 0.0,
        eps=eps,
        seed=seed,
    )
    dtype = made.logprobs.dtype
    factors = keep.to(dtype) if weights is None else weights.to(dtype) * keep
    losses = -made.logprobs * factors
    if z_loss:
        losses = losses + z_loss * made.lse.square() * factors
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    counted = factors.sum()
    return losses.sum() / torch.where(keep.any(), counted, 1.0)


def _check_options(
    op: str,
    targets: Tensor,
    weights: Tensor | None,
    reduction: str,
    logit_softcap: float | None,
    label_smoothing: float,
) -> None:
    if weights is not None:
        if weights.shape != targets.shape:
            raise ValueError(
                f"{op}: weights must have shape [T] = {list(targets.shape)}, "
                f"got {list(weights.shape)}"
            )
        if weights.requires_grad:
            raise ValueError(f"{op}: weights must not require a gradient; pass weights.detach()")
    known = get_args(Reduction)
    if reduction not in known:
        raise ValueError(
            f"{op}: reduction must be one of {', '.join(known)}, got {reduction!r}; "
            f"{did_you_mean(reduction, known)}"
        )
    if logit_softcap is not None and not logit_softcap > 0:
        raise ValueError(f"{op}: logit_softcap must be above 0 or None, got {logit_softcap}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing must be in [0, 1], got {label_smoothing}")
