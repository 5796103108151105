"""What conformance does not ask of `linear_logprobs`: precision, options, memory, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.errors import KernelError
from crucible_kitchen.kernels.linear_logprobs import cases, reference
from crucible_kitchen.kernels.linear_logprobs.variant import Variant
from crucible_kitchen.ops._linear_logprobs_table import LINEAR_LOGPROBS
from crucible_kitchen.ops.linear_logprobs import score

from .conftest import INTERPRETED

BACKEND = "triton" if INTERPRETED else "cpu"
DTYPES = (torch.float32, torch.float16 if INTERPRETED else torch.bfloat16)
OPTIONS = [(0.0, 0.0), (5.0, 0.0), (0.0, 0.1), (5.0, 0.1)]


def variant() -> Variant:
    loaded: Any = LINEAR_LOGPROBS.kernel(BACKEND).load()
    assert isinstance(loaded, Variant)
    return loaded


def close(got: Tensor, want: Tensor, tolerance: float) -> None:
    error, size = (got.double() - want.double()).norm(), want.double().norm()
    assert error <= tolerance * size, f"error {error:.2e} on a result of norm {size:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("softcap", "smoothing"), OPTIONS)
@pytest.mark.usefixtures("poisoned_empty")
def test_every_option_matches_the_definition(
    softcap: float, smoothing: float, dtype: torch.dtype
) -> None:
    # Rows and columns off every tile, and more than one block of the vocabulary on the CPU.
    hidden, weight, targets = cases.inputs(cases.Size(35, 37, 701), dtype, "cpu")
    made = variant().forward(hidden, weight, targets, softcap, smoothing)
    want = reference.forward(hidden, weight, targets, softcap, smoothing)
    # The scratch of a GPU kernel is 16 bits wide, the CPU's is not; the slope may be a sum of
    # products of integers, off by a fiftieth of what it is rounded to.
    of_integers = dtype == torch.bfloat16 and _C.lora_linear_multiplies_int16()
    for name, got, wanted in zip(made._fields, made, want, strict=True):
        tolerance = 1e-4 if of_integers and name == "slope" else 2e-6
        close(got, wanted, tolerance if dtype == torch.float32 or not INTERPRETED else 2e-3)
    grad = torch.linspace(-1, 1, 35)
    got = variant().grad_weight(
        grad, hidden, weight, targets, made.lse, made.miss, softcap, smoothing
    )
    want_dw = reference.grad_weight(
        grad, hidden, weight, targets, made.lse, made.miss, softcap, smoothing
    )
    close(got, want_dw, 2e-6 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize(("softcap", "smoothing"), OPTIONS)
def test_the_definition_is_its_own_derivative(softcap: float, smoothing: float) -> None:
    """The hand-written gradients are those of autograd, through the plainest formulation."""
    hidden, weight, targets = cases.inputs(cases.Size(6, 5, 9), torch.float64, "cpu")
    x, w = hidden.requires_grad_(), weight.requires_grad_()
    logits = x @ w.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    plain = -torch.nn.functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=smoothing
    )
    made = reference.forward(x.detach(), w.detach(), targets, softcap, smoothing)
    torch.testing.assert_close(made.logprobs, plain.detach(), rtol=1e-12, atol=1e-12)
    grad = torch.linspace(-1, 1, 6, dtype=torch.float64)
    dx, dw = torch.autograd.grad(plain, (x, w), grad)
    torch.testing.assert_close(grad[:, None] * made.slope, dx, rtol=1e-10, atol=1e-12)
    got = reference.grad_weight(
        grad, x.detach(), w.detach(), targets, made.lse, made.miss, softcap, smoothing
    )
    torch.testing.assert_close(got, dw, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_within_a_ten_thousandth_of_a_nat(dtype: torch.dtype) -> None:
    hidden, weight, targets = cases.inputs(cases.Size(40, 256, 3000), dtype, "cpu")
    # Logits of real models reach tens; products rounded to 16 bits would be off by 0.1 there.
    hidden = hidden * 8
    got = variant()(hidden, weight, targets)
    want = reference.linear_logprobs(hidden.double(), weight.double(), targets)
    assert want.abs().max() > 20
    assert (got - want).abs().max() <= 1e-4


def confident(p: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """One token whose target has probability p, up to rounding of the inputs."""
    _, weight, targets = cases.inputs(cases.Size(1, 64, 500), torch.float32, "cpu")
    direction = weight[targets] / weight[targets].norm()
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        reached = reference.linear_logprobs(middle * direction, weight, targets).exp()
        low, high = (low, middle) if reached > p else (middle, high)
    return (low * direction).to(dtype), weight.to(dtype), targets


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
# Beyond, the gradients are below the normal numbers of float16, which the interpreter runs on.
@pytest.mark.parametrize("p", [0.5, 0.999] if INTERPRETED else [0.5, 0.999, 0.999999])
def test_a_confident_token_keeps_its_gradient(p: float, dtype: torch.dtype) -> None:
    hidden, weight, targets = confident(p, dtype)
    x, w = hidden.requires_grad_(), weight.requires_grad_()
    with ops.using(BACKEND):
        got = torch.autograd.grad(ops.linear_logprobs(x, w, targets).sum(), (x, w))
    x64, w64 = x.detach().double().requires_grad_(), w.detach().double().requires_grad_()
    want = torch.autograd.grad(
        reference.linear_logprobs.forward(x64, w64, targets).logprobs.sum(), (x64, w64)
    )
    for have, wanted in zip(got, want, strict=True):
        close(have, wanted, 5e-3)


def test_a_frozen_head_gets_no_gradient_and_a_trained_one_does() -> None:
    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    x = hidden.requires_grad_()
    ops.linear_logprobs(x, weight, targets).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    w = weight.requires_grad_()
    ops.linear_logprobs(hidden.detach(), w, targets).sum().backward()
    assert w.grad is not None
    assert not ops.linear_logprobs(hidden.detach(), weight.detach(), targets).requires_grad


def test_no_gradient_means_no_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    real = variant().forward

    def spy(*args: Any) -> Any:
        asked.append(args[5])
        return real(*args)

    monkeypatch.setattr(LINEAR_LOGPROBS.__class__, "choose", lambda *_, **__: Variant(spy, real))
    hidden, weight, targets = cases.inputs(cases.SIZES["one_row"], torch.float32, "cpu")
    ops.linear_logprobs(hidden, weight, targets)
    with torch.no_grad():
        ops.linear_logprobs(hidden.requires_grad_(), weight, targets)
    ops.linear_logprobs(hidden, weight, targets)
    assert asked == [False, False, True]


def test_tokens_left_out_are_never_computed() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(12, 16, 50), torch.float32, "cpu")
    keep = torch.arange(12) % 3 == 0
    targets = torch.where(keep, targets, 999)  # would be out of range
    hidden = torch.where(keep[:, None], hidden, torch.nan).requires_grad_()
    weight.requires_grad_()
    got = score("test", hidden, weight, targets, keep=keep).logprobs
    assert (got[~keep] == 0).all()
    want = ops.linear_logprobs(hidden[keep], weight, targets[keep])
    torch.testing.assert_close(got[keep], want, rtol=0, atol=0)
    got_grads = torch.autograd.grad(got.sum(), (hidden, weight))
    want_grads = torch.autograd.grad(want.sum(), (hidden, weight))
    for have, wanted in zip(got_grads, want_grads, strict=True):
        assert torch.isfinite(have).all()
        torch.testing.assert_close(have, wanted, rtol=0, atol=0)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(INTERPRETED, reason="about the CPU kernel's threads")
@pytest.mark.usefixtures("threads")
def test_threads_and_neighbours_do_not_change_a_bit() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(150, 70, 2000), torch.float32, "cpu")
    grad = torch.linspace(-1, 1, 150)
    made = []
    for n in (1, 2, 5):
        torch.set_num_threads(n)
        forward = variant().forward(hidden, weight, targets)
        dw = variant().grad_weight(grad, hidden, weight, targets, forward.lse, forward.miss)
        made.append((*forward, dw))
    for others in made[1:]:
        assert all(map(torch.equal, made[0], others))
    alone = variant().forward(hidden[77:78], weight, targets[77:78])
    assert all(torch.equal(one, many[77:78]) for one, many in zip(alone, made[0], strict=False))


def test_a_strided_view_is_read_in_place_or_copied_but_right() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(9, 24, 70), torch.float32, "cpu")
    want = variant()(hidden, weight, targets)
    padded = torch.full((9, 40), torch.nan)
    padded[:, :24] = hidden
    assert torch.equal(variant()(padded[:, :24], weight, targets), want)
    assert torch.equal(variant()(hidden.T.contiguous().T, weight, targets), want)
    assert torch.equal(variant()(hidden, weight.T.contiguous().T, targets), want)
    assert torch.equal(variant()(hidden, weight, targets.repeat_interleave(2)[::2]), want)


def test_a_nan_comes_out_where_it_went_in() -> None:
    hidden, weight, targets = cases.inputs(cases.Size(5, 8, 30), torch.float32, "cpu")
    hidden[2, 3] = torch.nan
    assert variant()(hidden, weight, targets).isnan().tolist() == [False, False, True, False, False]


WRONG: dict[str, tuple[dict[str, Tensor], type[Exception], str]] = {
    "target too large": (
        {"targets": torch.tensor([0, 1, 7])},
        ValueError,
        r"targets must be in \[0, V\) = \[0, 7\), got 7 at position 2",
    ),
    "negative target": (
        {"targets": torch.tensor([0, -100, 3])},
        ValueError,
        r"got -100 at position 1",
    ),
    "int32 targets": (
        {"targets": torch.zeros(3, dtype=torch.int32)},
        TypeError,
        r"targets must be torch.int64, got torch.int32",
    ),
    "short targets": (
        {"targets": torch.tensor([0])},
        ValueError,
        r"targets must have shape \[T\] = \[3\], got \[1\]",
    ),
    "other dtype": (
        {"weight": torch.zeros(7, 4, dtype=torch.bfloat16)},
        TypeError,
        r"one floating dtype, got torch.float32 and torch.bfloat16",
    ),
    "other width": (
        {"weight": torch.zeros(7, 5)},
        ValueError,
        r"weight must have shape \[V, H\] = \[V, 4\], got \[7, 5\]",
    ),
    "batched hidden": (
        {"hidden": torch.zeros(1, 3, 4)},
        ValueError,
        r"hidden must have shape \[T, H\], got \[1, 3, 4\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name: str) -> None:
    change, error, message = WRONG[name]
    good = {
        "hidden": torch.zeros(3, 4),
        "weight": torch.zeros(7, 4),
        "targets": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(error, match=f"^linear_logprobs: .*{message}"):
        ops.linear_logprobs(**(good | change))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
def test_the_table_explains_itself() -> None:
    args = cases.inputs(cases.SIZES["one_row"], torch.float32, "cpu")
    said = ops.explain("linear_logprobs", *args)
    assert said.chosen == "cpu"
    assert "cpu" in str(said.verdicts[0].refused)
    half = ops.explain("linear_logprobs", *(t.half() if t.is_floating_point() else t for t in args))
    assert half.chosen == "reference"
    with ops.using("triton"), pytest.raises(KernelError, match="triton"):
        ops.linear_logprobs(*args)


@pytest.mark.skipif(INTERPRETED, reason="about compiled graphs of the CPU kernel")
def test_compiles_into_one_graph() -> None:
    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return ops.linear_logprobs(torch.nn.functional.silu(hidden), weight, targets).sum()

    hidden, weight, targets = cases.inputs(cases.SIZES["odd"], torch.float32, "cpu")
    x, w = hidden.requires_grad_(), weight.requires_grad_()
    want = torch.autograd.grad(loss(x, w, targets), (x, w))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x, w, targets), (x, w))
    for have, wanted in zip(got, want, strict=True):
        close(have, wanted, 1e-6)


MEMORY = """
import resource, torch
from crucible_kitchen import _C, ops
T, H, V = {T}, 64, 50_000
hidden = torch.randn(T, H, requires_grad=True)
weight, targets = torch.randn(V, H), torch.randint(V, (T,))
ops.linear_logprobs(hidden[:16], weight, targets[:16]).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ops.linear_logprobs(hidden, weight, targets).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(INTERPRETED or sys.platform != "linux", reason="reads peak memory of Linux")
def test_memory_is_a_twentieth_of_the_logits() -> None:
    T = 512
    command = [sys.executable, "-c", MEMORY.format(T=T)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert int(run.stdout) <= T * 50_000 * 4 / 1024 / 20  # KiB


@pytest.mark.skipif(INTERPRETED, reason="runs the interpreter itself")
def test_triton_takes_every_option_and_keeps_confident_tokens() -> None:
    names = "every_option or confident or left_out or strided_view or nan"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", names]
    run = subprocess.run(
        [*command, __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
