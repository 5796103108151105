"""Liger-Kernel as a peer: what is asked of it is what we compute. A stand-in computes it here."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen.benchmarks.errors_of import error_of, truth
from crucible_kitchen.benchmarks.peers import liger
from crucible_kitchen.benchmarks.problem import Problem, named_sizes


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, in_place: bool = True) -> Tensor:
    """With Liger's signature."""
    assert not in_place, "the other peers' inputs would be written over"
    return functional.rms_norm(x, weight.shape, weight, eps)


class MeanLoss(torch.nn.Module):
    """With the signature of LigerFusedLinearCrossEntropyLoss."""

    def forward(self, lin_weight: Tensor, _input: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(_input @ lin_weight.T, target)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    formulas = ModuleType("liger_kernel.transformers.functional")
    formulas.liger_rms_norm = rms_norm  # type: ignore[attr-defined]
    formulas.liger_swiglu = lambda gate, up: functional.silu(gate) * up  # type: ignore[attr-defined]
    module.functional = formulas  # type: ignore[attr-defined]
    module.LigerFusedLinearCrossEntropyLoss = MeanLoss  # type: ignore[attr-defined]
    for each in (package, module, formulas):
        monkeypatch.setitem(sys.modules, each.__name__, each)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("op", ["rms_norm", "swiglu", "linear_logprobs"])
def test_it_is_asked_for_what_we_compute(op: str) -> None:
    problem = Problem(op, "odd", named_sizes(op)["odd"], torch.float32, "cpu")
    call = liger._mean_loss(problem) if op == "linear_logprobs" else liger._calls_of(op, problem)
    assert error_of(call(), truth(problem)) < 1e-4


def test_it_is_no_peer_on_the_cpu() -> None:
    problem = Problem("swiglu", "odd", named_sizes("swiglu")["odd"], torch.float32, "cpu")
    assert liger.calls(problem) == {}
