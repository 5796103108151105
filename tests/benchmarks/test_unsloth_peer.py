"""unsloth as a peer: what is asked of its layer is what we compute. A stand-in computes it here."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from crucible_kitchen.benchmarks.errors_of import error_of, truth
from crucible_kitchen.benchmarks.peers import lora_linear
from crucible_kitchen.benchmarks.problem import Problem, named_sizes


class Layer:
    """With the signature of LoRA_W, which takes a batch of sequences [B, T, K] and no other x."""

    @staticmethod
    def apply(x: Tensor, w: Tensor, quantised: None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        _batch, _length, _width = x.shape
        return x @ w.T + scale * (x @ a.T) @ b.T


@pytest.mark.parametrize("size", ["odd", "rank_1"])
def test_it_is_asked_for_what_we_compute(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ModuleType("unsloth.kernels.fast_lora")
    layers.LoRA_W = Layer  # type: ignore[attr-defined]
    for name in ("unsloth", "unsloth.kernels"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, layers.__name__, layers)
    problem = Problem("lora_linear", size, named_sizes("lora_linear")[size], torch.float32, "cpu")
    call = lora_linear._by(problem, lora_linear._unsloth)
    assert error_of(call(), truth(problem)) < 1e-4


def test_it_is_no_peer_on_the_cpu() -> None:
    problem = Problem("lora_linear", "odd", named_sizes("lora_linear")["odd"], torch.float32, "cpu")
    assert "unsloth" not in lora_linear.calls(problem)
