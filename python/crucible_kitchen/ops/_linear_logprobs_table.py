"""The kernels of `linear_logprobs`, best first, and what each refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.linear_logprobs.builds import not_built
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def _built_refuses(
    hidden: Tensor, weight: Tensor | None = None, *args: Any, logit_softcap: float = 0.0, **_: Any
) -> str | None:
    V = 0 if weight is None else weight.shape[0]
    reason: str | None = not_built(hidden.shape[1], V, logit_softcap)
    return reason


def _refuse_cpu(hidden: Tensor, *args: Any, **options: Any) -> str | None:
    if hidden.device.type != "cpu":
        return f"hidden is on {hidden.device.type}; it computes on the CPU"
    if hidden.dtype not in (torch.float32, torch.bfloat16):
        return f"hidden is {hidden.dtype}; it takes float32 and bfloat16"
    return None


LINEAR_LOGPROBS = Op(
    "linear_logprobs",
    kernels=(
        *triton_kernels("linear_logprobs", _built_refuses),
        Kernel(
            "cpu",
            "crucible_kitchen.ops._linear_logprobs_cpu:linear_logprobs",
            _refuse_cpu,
        ),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.linear_logprobs.reference:linear_logprobs",
            lambda *args, **options: None,
        ),
    ),
)
