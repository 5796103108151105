"""torch's own AdamW on the same tensors, fused and foreach, and its clipping before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """One optimizer step each; bfloat16 parameters have bfloat16 moments there."""
    return {
        "torch fused": _step_of(problem, fused=True),
        "torch foreach": _step_of(problem, foreach=True),
    }


def around(step: Callable[..., None]) -> Callable[..., None]:
    """The step and, where it clips, the norm before it."""

    def call(params: list[Tensor], grads: list[Tensor], *moments: Any, **options: Any) -> None:
        norm = ops.grad_norm(grads) if options.get("max_norm") else None
        step(params, grads, *moments, norm=norm, **options)

    return call


def _step_of(problem: Problem, **how: Any) -> Call:
    params, grads, exp_avgs, exp_avg_sqs = problem.inputs()
    options = problem.options
    constants = {name: options[name] for name in ("lr", "betas", "eps", "weight_decay")}
    mine = [torch.nn.Parameter(param) for param in params]
    optimizer = torch.optim.AdamW(mine, **constants, **how)
    for i, param in enumerate(mine):
        param.grad = options["grad_scale"] * grads[i]
        optimizer.state[param] = {
            "step": torch.tensor(float(options["step"][i] - 1), device=param.device),
            "exp_avg": exp_avgs[i].to(param.dtype),
            "exp_avg_sq": exp_avg_sqs[i].to(param.dtype),
        }

    def call() -> list[Tensor]:
        if max_norm := options.get("max_norm"):
            torch.nn.utils.clip_grad_norm_(mine, max_norm)
        optimizer.step()
        states = [optimizer.state[param] for param in mine]
        moments = (state[name] for name in ("exp_avg", "exp_avg_sq") for state in states)
        return [*(param.detach() for param in mine), *moments]

    return call
