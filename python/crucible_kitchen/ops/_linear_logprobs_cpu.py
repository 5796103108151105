"""The compiled CPU variant of `linear_logprobs`: allocates, and calls the extension."""

from __future__ import annotations

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.linear_logprobs.variant import Forward, Sampled, Sum, Variant


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
    want_slope: bool = True,
) -> Forward:
    """See `reference.forward`; hidden and weight both float32 or both bfloat16."""
    T, H = hidden.shape
    logprobs, lse, miss = (torch.empty(T, dtype=torch.float32) for _ in range(3))
    slope = torch.empty((T if want_slope else 0, H), dtype=torch.float32)
    even_row = None
    if want_slope and label_smoothing != 0.0 and logit_softcap == 0.0:
        even_row = weight.sum(0, dtype=torch.float32) * (label_smoothing / weight.shape[0])
    _C.linear_logprobs_forward(
        _rows(hidden),
        _rows(weight),
        targets.contiguous(),
        logit_softcap,
        label_smoothing,
        even_row,
        logprobs,
        lse,
        miss,
        slope if want_slope else None,
        0.0,
        0,
        None,
        torch.get_num_threads(),
    )
    return Forward(logprobs, lse, miss, slope)


def sampled(hidden: Tensor, weight: Tensor, targets: Tensor, eps: float, seed: int) -> Sampled:
    """See `reference.sampled`."""
    T, H = hidden.shape
    logprobs, lse, miss, sure = (torch.empty(T, dtype=torch.float32) for _ in range(4))
    slope = torch.empty((T, H), dtype=torch.float32)
    _C.linear_logprobs_forward(
        _rows(hidden),
        _rows(weight),
        targets.contiguous(),
        0.0,
        0.0,
        None,
        logprobs,
        lse,
        miss,
        slope,
        eps,
        seed,
        sure,
        torch.get_num_threads(),
    )
    return Sampled(Forward(logprobs, lse, miss, slope), sure)


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
    """See `reference.grad_weight`."""
    made = torch.empty(weight.shape, dtype=weight.dtype)
    _C.linear_logprobs_grad_weight(
        grad.float().contiguous(),
        _rows(hidden),
        _rows(weight),
        targets.contiguous(),
        lse.contiguous(),
        miss.contiguous(),
        logit_softcap,
        label_smoothing,
        made,
        torch.get_num_threads(),
    )
    return made


def sum_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, label_smoothing: float = 0.0
) -> Sum:
    """See `reference.sum_gradients`; all float32."""
    made = Sum(*(torch.empty(t.shape, dtype=torch.float32) for t in (targets, hidden, weight)))
    _C.linear_logprobs_sum_gradients(
        _rows(hidden),
        _rows(weight),
        targets.contiguous(),
        label_smoothing,
        factors.float().contiguous(),
        *made,
        torch.get_num_threads(),
    )
    return made


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if the elements of each row lie together, else a copy."""
    tensor = tensor.detach()
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


linear_logprobs = Variant(forward, grad_weight, sampled, sum_gradients)
