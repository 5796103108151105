"""A sum of log-probabilities under a trained head, whose gradients are made with its value.

A loss that weighs each token beforehand can have both gradients while the logits are there: three
matrix products, where a log-probability first and its gradients later take four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.linear_logprobs.variant import Sum, Variant
from crucible_kitchen.ops._head_inputs import check, check_targets, kept_of
from crucible_kitchen.ops._library import lowered, refuse_transforms, register
from crucible_kitchen.ops._linear_logprobs_table import LINEAR_LOGPROBS


def gains(hidden: Tensor, weight: Tensor) -> bool:
    """Whether `sum_of_logprobs` saves a product: a trained head, in float32 on the CPU."""
    hidden, weight = lowered(hidden, weight)
    return (
        torch.is_grad_enabled()
        and hidden.requires_grad
        and weight.requires_grad
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
    )


def sum_of_logprobs(
    op: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    factors: Tensor,
    *,
    keep: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The sum over tokens of factors_t logprobs_t, differentiable in hidden and weight, [].

    Args:
        op: the name that errors carry.
        factors: constants, [T] float32.
        keep, label_smoothing: as `linear_logprobs.score` takes them.
    """
    refuse_transforms(op)
    hidden, weight = lowered(hidden, weight)
    check(op, hidden, weight, targets)
    total: Tensor = _sum(hidden, weight, targets, keep, factors, label_smoothing, op)[0]
    return total


def _run(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    keep: Tensor | None,
    factors: Tensor,
    label_smoothing: float,
    caller: str,
) -> tuple[Tensor, Tensor, Tensor]:
    T, H = hidden.shape
    kept = kept_of(keep)
    if kept is not None:
        hidden, targets, factors = hidden[kept], targets[kept], factors[kept]
    check_targets(caller, targets, kept, weight.shape[0])
    if len(targets) == 0:
        return factors.new_zeros(()), hidden.new_zeros(T, H), torch.zeros_like(weight)
    kernel: Any = LINEAR_LOGPROBS.choose(hidden, weight, targets)
    made = _gradients(kernel, hidden, weight, targets, factors, label_smoothing)
    grad_hidden = made.grad_hidden
    if kept is not None:
        grad_hidden = grad_hidden.new_zeros(T, H).index_copy_(0, kept, grad_hidden)
    return (made.logprobs * factors).sum(), grad_hidden.to(hidden.dtype), made.grad_weight


def _gradients(
    kernel: Variant,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    factors: Tensor,
    label_smoothing: float,
) -> Sum:
    if kernel.sum_gradients is not None:
        return kernel.sum_gradients(hidden, weight, targets, factors, label_smoothing)
    made = kernel.forward(hidden, weight, targets, 0.0, label_smoothing)
    grad_weight = kernel.grad_weight(
        factors, hidden, weight, targets, made.lse, made.miss, 0.0, label_smoothing
    )
    return Sum(made.logprobs, factors[:, None] * made.slope, grad_weight)


def _fake(
    hidden: Tensor, weight: Tensor, targets: Tensor, keep: Tensor | None, factors: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return factors.new_empty(()), hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, grad_hidden, grad_weight = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(grad_hidden, grad_weight)
    ctx.save_for_backward(grad_hidden, grad_weight)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    made = (
        _times(grad, tensor) if wanted else None
        for tensor, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
    )
    return *made, *[None] * 5


def _times(grad: Tensor, made: Tensor) -> Tensor:
    # The sum itself hands down 1, and the product would copy a tensor of the head's size. What is
    # traced by a compiler is no plain tensor, and has no value.
    return made if type(grad) is Tensor and grad == 1 else grad * made


_sum = register(
    "linear_logprobs_sum(Tensor hidden, Tensor weight, Tensor targets, Tensor? keep, "
    "Tensor factors, float label_smoothing, str caller) "
    "-> (Tensor total, Tensor grad_hidden, Tensor grad_weight)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
