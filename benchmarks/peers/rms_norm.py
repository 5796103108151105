"""The same norm by torch and as models write it out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen.benchmarks.peers import liger
from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`F.rms_norm`, transformers' five calls, and Liger's kernel."""
    args = problem.leaves()
    return {
        "torch": problem.forward_and_backward(_torch, args),
        "written out": problem.forward_and_backward(_written_out, args),
    } | liger.calls(problem)


def _torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def _written_out(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)
