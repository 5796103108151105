"""Liger-Kernel's ops, where it is installed: Triton kernels, so on GPUs only.

Source: https://github.com/linkedin/Liger-Kernel, liger_kernel/transformers/functional.py
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from crucible_kitchen.benchmarks.problem import Call, Problem


def _calls_of(op: str, problem: Problem) -> Call:
    from liger_kernel.transformers import functional as liger

    # In place it would write over the inputs that the other peers are timed on.
    formulas: dict[str, Callable[..., Any]] = {
        "rms_norm": lambda x, weight, eps: liger.liger_rms_norm(x, weight, eps, in_place=False),
        "swiglu": liger.liger_swiglu,
    }
    return problem.forward_and_backward(formulas[op], problem.leaves())


def _mean_loss(problem: Problem) -> Call:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden, weight, targets = problem.leaves()
    loss_of = LigerFusedLinearCrossEntropyLoss()

    def call() -> list[torch.Tensor]:
        loss = loss_of(weight, hidden, targets)
        wanted = [(hidden, weight)[i] for i in problem.gradients]
        return [-loss.detach(), *torch.autograd.grad(loss, wanted)]

    return call


def calls(problem: Problem) -> dict[str, Call]:
    """Liger's call for the problem; none without the package or a GPU."""
    if problem.device != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return {}
    is_loss = problem.op == "linear_logprobs"
    return {"Liger": _mean_loss(problem) if is_loss else _calls_of(problem.op, problem)}
