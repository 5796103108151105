"""Norms and gated MLPs whose outputs a backward pass computes again: fewer bytes, the same bits."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops

ROWS, WIDTH, INNER, RANK = 33, 24, 40, 4
SIZES = {"gate": (WIDTH, INNER), "up": (WIDTH, INNER), "down": (INNER, WIDTH)}
DTYPES = (torch.float32, torch.bfloat16)

See = Callable[[Tensor], None]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Mlp:
    """The second half of a decoder layer, with LoRA on its linears."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.weights = {name: drawn(N, K).to(dtype) for name, (K, N) in SIZES.items()}
        self.lora = {
            name: (drawn(RANK, K).requires_grad_(), drawn(N, RANK).requires_grad_())
            for name, (K, N) in SIZES.items()
        }
        self.norm = drawn(WIDTH).abs().to(dtype)
        self.x = drawn(ROWS, WIDTH).to(dtype).requires_grad_()

    def __call__(self, see: See = lambda tensor: None, batched: bool = False) -> Tensor:
        """Its output; `see` is shown what is not to be kept."""
        x = self.x[None] if batched else self.x
        normed = ops.rms_norm(x, self.norm, 1e-6)
        see(normed)
        one = normed[0] if batched else normed
        hidden = ops.swiglu(self.linear("gate", one), self.linear("up", one))
        see(hidden)
        return self.x + self.linear("down", hidden)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return ops.lora_linear(x, self.weights[name], *self.lora[name], 0.5)

    def gradients(self, y: Tensor, **options: Any) -> list[Tensor]:
        leaves = [self.x, *(t for pair in self.lora.values() for t in pair)]
        return list(torch.autograd.grad(y.float().square().sum(), leaves, **options))


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed again, in order."""
    seen: list[str] = []
    for op, name in (("rms_norm", "_again"), ("swiglu", "_run")):
        module = importlib.import_module(f"crucible_kitchen.ops.{op}")
        compute = getattr(module, name)

        def watched(*args: Any, op: str = op, compute: Callable[..., Tensor] = compute) -> Tensor:
            seen.append(op)
            return compute(*args)

        monkeypatch.setattr(module, name, watched)
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batched", [False, True])
def test_gradients_are_the_same_bits(
    dtype: torch.dtype, batched: bool, computed: list[str]
) -> None:
    mlp = Mlp(dtype)
    want = mlp.gradients(mlp(batched=batched))
    assert computed == []
    with ops.recomputing():
        y = mlp(batched=batched)
    assert same(mlp.gradients(y), want)
    assert computed == ["swiglu", "rms_norm"], "the norm once, for gate and up"


def test_outputs_are_not_kept() -> None:
    alive = {}
    for around in (nullcontext, ops.recomputing):
        seen: list[weakref.ref[Tensor]] = []
        with around():
            y = Mlp(torch.float32)(lambda tensor, seen=seen: seen.append(weakref.ref(tensor)))
        gc.collect()
        alive[around] = [output() is not None for output in seen]
        del y
    assert alive == {nullcontext: [True, True], ops.recomputing: [False, False]}


def test_a_graph_that_is_kept_gives_its_gradients_again(computed: list[str]) -> None:
    mlp = Mlp(torch.float32)
    with ops.recomputing():
        y = mlp()
    first = mlp.gradients(y, retain_graph=True)
    assert same(mlp.gradients(y), first)


def test_a_graph_is_freed_with_its_output() -> None:
    """`exp` saves what it gives: were that held as it is, the graph would hold itself."""
    x = drawn(5).requires_grad_()
    gc.disable()
    try:
        with ops.recomputing():
            y = x.exp()
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        gc.enable()


def test_an_output_that_was_changed_is_kept_as_it_is(computed: list[str]) -> None:
    mlp, grads = Mlp(torch.float32), []
    for around in (nullcontext, ops.recomputing):
        with around():
            hidden = ops.swiglu(mlp.linear("gate", mlp.x), mlp.linear("up", mlp.x))
            hidden.mul_(2)
            y = mlp.linear("down", hidden)
        grads.append(mlp.gradients(y))
    assert same(*grads)
    assert computed == []


@pytest.mark.parametrize("which", [0, 1])
def test_an_input_must_not_change_before_the_backward(which: int) -> None:
    """As torch has it."""
    mlp = Mlp(torch.float32)
    with ops.recomputing():
        inputs = mlp.linear("gate", mlp.x), mlp.linear("up", mlp.x)
        y = mlp.linear("down", ops.swiglu(*inputs))
    inputs[which].detach().mul_(2)
    with pytest.raises(RuntimeError, match="must stay as it is until the backward pass"):
        mlp.gradients(y)


def test_what_torch_keeps_must_not_change_either() -> None:
    x = drawn(5).requires_grad_()
    with ops.recomputing():
        doubled = x * 2
        y = doubled.square()
    doubled.detach().mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \[5\] that was changed in place"):
        y.sum().backward()


def test_it_ends_with_its_block(computed: list[str]) -> None:
    mlp = Mlp(torch.float32)
    with ops.recomputing():
        pass
    mlp.gradients(mlp())
    with torch.no_grad(), ops.recomputing():
        mlp()
    assert computed == []
