"""The norm as torch's clipping computes it, on the same gradients."""

from __future__ import annotations

import torch

from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`torch.nn.utils.get_total_norm`, which sums in the gradients' dtype."""
    (grads,) = problem.inputs()
    return {"torch": lambda: [torch.nn.utils.get_total_norm(grads)]}
