"""The same losses as eager torch computes them, one small kernel after another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crucible_kitchen.benchmarks.problem import Call, Problem
from crucible_kitchen.kernels.row_loss.reference import losses


def calls(problem: Problem) -> dict[str, Call]:
    """The formulas in the dtype of the inputs, differentiated by autograd."""

    def eager(*columns: Tensor | None, terms: Any, settings: Any) -> Tensor:
        return losses(columns, terms, settings)

    return {"torch": problem.forward_and_backward(eager, problem.leaves())}
