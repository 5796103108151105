"""The same product as two torch calls."""

from __future__ import annotations

from torch.nn import functional

from crucible_kitchen.benchmarks.peers import liger
from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`silu(gate) * up`, and Liger's kernel."""
    return {
        "torch": problem.forward_and_backward(
            lambda gate, up: functional.silu(gate) * up, problem.leaves()
        )
    } | liger.calls(problem)
