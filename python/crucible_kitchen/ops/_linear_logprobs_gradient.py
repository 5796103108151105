"""The gradients of `linear_logprobs`: the head's as an op of its own, and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.ops._head_inputs import kept_of
from crucible_kitchen.ops._library import register
from crucible_kitchen.ops._linear_logprobs_table import LINEAR_LOGPROBS


def _run_grad_weight(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    lse: Tensor,
    miss: Tensor,
    logit_softcap: float,
    label_smoothing: float,
) -> Tensor:
    kept = kept_of(keep)
    if kept is not None:
        grad, hidden, targets, lse, miss = (t[kept] for t in (grad, hidden, targets, lse, miss))
    if len(targets) == 0:
        return torch.zeros_like(weight)
    kernel: Any = LINEAR_LOGPROBS.choose(
        hidden, weight, targets, logit_softcap=logit_softcap
    )  # a Variant
    made: Tensor = kernel.grad_weight(
        grad, hidden, weight, targets, lse, miss, logit_softcap, label_smoothing
    )
    return made


def _fake_grad_weight(grad: Tensor, hidden: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(weight.shape)


_grad_weight = register(
    "linear_logprobs_grad_weight(Tensor grad, Tensor hidden, Tensor weight, Tensor targets, "
    "Tensor? keep, Tensor lse, Tensor miss, float logit_softcap, float label_smoothing) -> Tensor",
    _run_grad_weight,
    _fake_grad_weight,
)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, keep, ctx.logit_softcap, ctx.label_smoothing, _, want_lse, *_ = inputs
    logprobs, lse, miss, slope = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*([] if want_lse else [lse]), miss, slope)
    ctx.hidden_dtype = hidden.dtype
    ctx.save_for_backward(slope)
    if ctx.needs_input_grad[1] or want_lse:
        ctx.save_for_backward(slope, hidden, weight, targets, keep, lse, miss, logprobs)


def backward(
    ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    """With p = q - (q - p), the gradient of the lse is that of its own share of q, less the slope.

    d lse / d z_v = p_v, and the slope has q - p for p.
    """
    slope, *rest = ctx.saved_tensors
    if grad_lse is not None:
        grad = -grad_lse if grad is None else grad - grad_lse
    if grad is None:
        return (None,) * 11
    grad_hidden = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_hidden = grad[:, None] * slope
    if ctx.needs_input_grad[1]:
        options = (ctx.logit_softcap, ctx.label_smoothing)
        grad_weight = _grad_weight(grad, *rest[:-1], *options)
    if grad_lse is not None:
        _add_shares(ctx, grad_lse, grad_hidden, grad_weight, *rest)
    if grad_hidden is not None:
        grad_hidden = grad_hidden.to(ctx.hidden_dtype)
    return grad_hidden, grad_weight, *[None] * 9


def _add_shares(
    ctx: Any,
    grad: Tensor,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    lse: Tensor,
    miss: Tensor,
    logprobs: Tensor,
) -> None:
    """Add grad_t sum_v q_tv bend_tv W_v to the one, grad_t q_tv bend_tv h_t to the other.

    There is a softcap or smoothing, never both: the bends of all v are not kept.
    """
    even = ctx.label_smoothing / weight.shape[0]
    at_target = (1.0 - ctx.label_smoothing) * grad
    if keep is not None:
        targets = torch.where(keep, targets, 0)
        at_target, grad = at_target * keep, grad * keep
    if ctx.logit_softcap:
        at_target = at_target * (1 - ((logprobs + lse) / ctx.logit_softcap).square())
    if grad_hidden is not None:
        grad_hidden += at_target[:, None] * weight[targets]
        if even:
            grad_hidden += (even * grad)[:, None] * weight.sum(0, dtype=grad.dtype)
    if grad_weight is not None:
        pulls = (at_target[:, None] * hidden).to(weight.dtype)
        grad_weight.index_add_(0, targets, pulls)
        if even:
            grad_weight += (even * grad @ hidden.to(grad.dtype)).to(weight.dtype)
