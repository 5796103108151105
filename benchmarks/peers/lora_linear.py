"""A frozen linear layer and its low-rank update, as others compute them.

Each peer is a formulation in plain torch, so that nothing has to be installed to compare with it;
unsloth's own call is beside its formulation where unsloth is, on a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """PEFT with adapters in float32 (its default) and in the layer's dtype, unsloth, the floor."""
    made = {"PEFT": _by(problem, _peft, adapter_dtype=torch.float32)}
    if problem.dtype != torch.float32:
        made["PEFT same dtype"] = _by(problem, _peft)
    if not problem.options:  # unsloth's own path takes no dropout
        made["unsloth addmm"] = _by(problem, _addmm)
        if problem.device == "cuda" and importlib.util.find_spec("unsloth"):
            made["unsloth"] = _by(problem, _unsloth)
    made["frozen layer alone"] = _frozen(problem)
    return made


def _by(
    problem: Problem, forward: Callable[..., Tensor], adapter_dtype: torch.dtype | None = None
) -> Call:
    args = list(problem.leaves())
    if adapter_dtype is not None:
        for i in (2, 3):
            args[i] = args[i].detach().to(adapter_dtype).requires_grad_()
    return problem.forward_and_backward(forward, tuple(args))


def _peft(
    x: Tensor,
    w: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float,
    bias: Tensor | None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Source: https://github.com/huggingface/peft, peft/tuners/lora/layer.py, Linear.forward"""
    y = functional.linear(x, w, bias)
    seen = functional.dropout(x.to(a.dtype), dropout)
    low_rank = functional.linear(functional.linear(seen, a), b)
    return (y + scale * low_rank).to(x.dtype)


class _AddMm(torch.autograd.Function):
    """The update added into the product's memory, in both directions.

    Source: https://github.com/unslothai/unsloth, unsloth/kernels/fast_lora.py, LoRA_W
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        y = x @ w.T
        y.addmm_(x @ a.T, b.T, alpha=scale)
        ctx.save_for_backward(x, w, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w, a, b = ctx.saved_tensors
        dyb = dy @ b
        dx = dy @ w
        dx.addmm_(dyb, a, alpha=ctx.scale)
        da = ctx.scale * (dyb.T @ x)
        db = ctx.scale * (dy.T @ (x @ a.T))
        return dx, None, da, db, None


def _addmm(x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _AddMm.apply(rows, w, a, b, scale)  # type: ignore[no-untyped-call]
    y = y if bias is None else y + bias
    return y.view(*x.shape[:-1], w.shape[0])


def _unsloth(
    x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None
) -> Tensor:
    """As its layers call it for a weight that is not quantised; it takes a batch of sequences."""
    from unsloth.kernels.fast_lora import LoRA_W

    y: Tensor = LoRA_W.apply(x.reshape(1, -1, x.shape[-1]), w, None, a, b, scale)
    y = y if bias is None else y + bias
    return y.view(*x.shape[:-1], w.shape[0])


def _frozen(problem: Problem) -> Call:
    """The layer without an update, forward and dx: what no LoRA layer can beat by much."""
    x, w = problem.leaves()[:2]
    upstream: list[Tensor] = []

    def call() -> list[Tensor]:
        y = functional.linear(x, w)
        if not upstream:
            upstream.append(problem.upstream(y))
        torch.autograd.grad(y, [x], upstream[0])
        return []

    return call
