"""`lora_linear_many` as others compute it: PEFT's layers one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import ops
from crucible_kitchen.benchmarks.problem import Call, Problem

Many = list[Tensor]


def calls(problem: Problem) -> dict[str, Call]:
    """Update by update in plain torch and by our own op, and the floor."""
    return {
        "ours, stacked": _stacked(problem),
        "PEFT one by one": problem.forward_and_backward(_by(_peft), problem.leaves()),
        "ours one by one": problem.forward_and_backward(_by(ops.lora_linear), problem.leaves()),
        "frozen layers alone": _frozen(problem),
    }


def _peft(x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Source: https://github.com/huggingface/peft, peft/tuners/lora/layer.py, Linear.forward"""
    return functional.linear(x, w, bias) + scale * functional.linear(functional.linear(x, a), b)


def _by(one: Callable[..., Tensor]) -> Callable[..., Many]:
    def many(
        x: Tensor,
        weights: Many,
        lora_a: Many,
        lora_b: Many,
        scales: list[float],
        rows: list[int],
        biases: Many | None,
    ) -> Many:
        ys = []
        for layer, weight in enumerate(weights):
            bias = None if biases is None else biases[layer]
            parts = []
            for i, part in enumerate(torch.split(x, rows), start=layer * len(rows)):
                parts.append(one(part, weight, lora_a[i], lora_b[i], scales[i], bias))
            ys.append(torch.cat(parts) if len(parts) > 1 else parts[0])
        return ys

    return many


def _stacked(problem: Problem) -> Call:
    """Ours with one tensor for the A, and one for the B, of each layer."""
    x, weights, lora_a, lora_b, scales, rows, biases = problem.leaves()
    each = range(0, len(lora_a), len(rows))
    stacks = [
        torch.stack(matrices[i : i + len(rows)]).detach().requires_grad_()
        for matrices in (lora_a, lora_b)
        for i in each
    ]
    a, b = stacks[: len(each)], stacks[len(each) :]
    upstream: list[Any] = []

    def call() -> list[Tensor]:
        ys = ops.lora_linear_many(x, weights, a, b, scales, rows, biases)
        first = not upstream
        if first:
            upstream.extend(problem.upstream(y) for y in ys)
        dx, *made = torch.autograd.grad(ys, [x, *stacks], upstream)
        if first:  # it is compared, not timed
            made = [gradient for stack in made for gradient in stack.unbind()]
        return [*(y.detach() for y in ys), dx, *made]

    return call


def _frozen(problem: Problem) -> Call:
    """The layers without updates, forward and dx: what nothing can beat by much."""
    x, weights, *_ = problem.leaves()
    upstream: list[Any] = []

    def call() -> list[Tensor]:
        ys = [functional.linear(x, w) for w in weights]
        if not upstream:
            upstream.extend(problem.upstream(y) for y in ys)
        torch.autograd.grad(ys, [x], upstream)
        return []

    return call
