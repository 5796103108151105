"""A sum of log-probabilities under a trained head, whose gradients are made with its value."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.linear_logprobs import cases, reference
from crucible_kitchen.ops import _linear_logprobs_sum
from crucible_kitchen.ops._linear_logprobs_cpu import sum_gradients

from .conftest import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="about the CPU kernel")


def close(got: Tensor, want: Tensor, tolerance: float = 2e-6) -> None:
    error, size = (got.double() - want.double()).norm(), want.double().norm()
    assert error <= tolerance * size, f"error {error:.2e} on a result of norm {size:.2e}"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Several blocks of tokens, off every tile; a vocabulary of one slice, of several, and of one word.
@pytest.mark.parametrize("size", [(1, 64, 300), (5, 8, 1), (35, 37, 701), (331, 33, 2503)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.usefixtures("poisoned_empty")
def test_is_the_definition(size: tuple[int, int, int], smoothing: float) -> None:
    hidden, weight, targets = cases.inputs(cases.Size(*size), torch.float32, "cpu")
    factors = torch.linspace(-1, 2, size[0])
    made = sum_gradients(hidden, weight, targets, factors, smoothing)
    want = reference.sum_gradients(hidden.double(), weight.double(), targets, factors, smoothing)
    for got, wanted in zip(made, want, strict=True):
        close(got, wanted)


@pytest.mark.usefixtures("threads")
def test_threads_do_not_change_a_bit() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(170, 40, 9001), torch.float32, "cpu")
    factors = torch.linspace(-1, 1, 170)
    made = []
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        made.append(sum_gradients(hidden, weight, targets, factors))
    for others in made[1:]:
        assert all(map(torch.equal, made[0], others))


def trained(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = _linear_logprobs_sum._gradients

    def spy(*args: object) -> object:
        seen.append("sum")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(_linear_logprobs_sum, "_gradients", spy)


@pytest.mark.parametrize("frozen", ["neither", "head", "hidden"])
def test_only_a_trained_head_takes_it(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    trained(seen, monkeypatch)
    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    hidden.requires_grad_(frozen != "hidden")
    weight.requires_grad_(frozen != "head")
    leaves = [t for t in (hidden, weight) if t.requires_grad]
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    assert seen == (["sum"] if frozen == "neither" else [])
    want = torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    close(loss, want)
    for got, wanted in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(want, leaves), strict=True
    ):
        close(got, wanted)
    with torch.no_grad():
        ops.linear_cross_entropy(hidden, weight, targets)
    assert len(seen) == (frozen == "neither")


def test_what_flows_into_the_loss_scales_both_gradients() -> None:
    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    loss = ops.linear_cross_entropy(*leaves, targets)
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    thrice = torch.autograd.grad(3.0 * loss, leaves)
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(3.0 * one, three)


def test_gradients_add_up_over_micro_batches() -> None:
    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    weight.requires_grad_()
    for half in (slice(0, 30), slice(30, None)):
        x = hidden[half].clone().requires_grad_()
        ops.linear_cross_entropy(x, weight, targets[half], reduction="sum").backward()
    whole = reference.sum_gradients(
        hidden.double(), weight.detach().double(), targets, -torch.ones(len(targets))
    )
    assert weight.grad is not None
    close(weight.grad, whole.grad_weight)


def test_compiles_into_one_graph() -> None:
    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    want = torch.autograd.grad(ops.linear_cross_entropy(*leaves, targets), leaves)
    compiled = torch.compile(ops.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves, targets), leaves)
    for have, wanted in zip(got, want, strict=True):
        close(have, wanted)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_follows_the_rules_of_an_op() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(7, 6, 11), torch.float32, "cpu")
    args = (hidden.requires_grad_(), weight.requires_grad_(), targets, None, torch.ones(7))
    op = torch.ops.crucible_kitchen.linear_logprobs_sum.default
    torch.library.opcheck(op, (*args, 0.1, "test"))


MEMORY = """
import resource, torch
from crucible_kitchen import ops
H, V = 16, 50_000
weight = torch.randn(V, H, requires_grad=True)
def step(T):
    hidden, targets = torch.randn(T, H, requires_grad=True), torch.randint(V, (T,))
    torch.autograd.grad(ops.linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(step(200), step(2000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory of Linux")
def test_memory_does_not_grow_with_the_tokens() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env=os.environ
    )
    few, many = map(int, run.stdout.split())
    assert many - few <= 8 * 1024  # KiB; of their logits, 400 MB
