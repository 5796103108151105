"""What a call costs that computes next to nothing: ``pytest benchmarks/test_overhead.py``.

A step of SmolLM2-135M makes some 500 calls of an op and as many backward; a token that is sampled
makes 300 that each multiply one row.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen import _C, ops
from crucible_kitchen.ops._lora_linear_cpu import panels_of

ROUNDS, CALLS = 7, 300


def plain_lora(x: Tensor, w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(x @ w.T, x @ a.T, b.T, alpha=scale)


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def plain_gate(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LORA = (drawn(4, 16), drawn(16, 16), drawn(2, 16), drawn(16, 2), 2.0)
# By name: ours, plain torch, arguments, and which of them are differentiated.
SMALL: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...], Any]] = {
    "lora_linear": (ops.lora_linear, plain_lora, LORA, (0, 2, 3)),
    "rms_norm": (ops.rms_norm, plain_norm, (drawn(4, 16), drawn(16), 1e-6), (0,)),
    "swiglu": (ops.swiglu, plain_gate, (drawn(4, 16), drawn(4, 17)[:, 1:].contiguous()), (0, 1)),
}


def seconds(call: Callable[[], object], *, no_grad: bool = False) -> float:
    """Of one call; processor time of many. A model enters no_grad once for all its calls."""
    with torch.set_grad_enabled(not no_grad):
        begin = time.process_time()
        for _ in range(CALLS):
            call()
        return (time.process_time() - begin) / CALLS


def both_ways(
    op: Callable[..., Tensor], args: tuple[Any, ...], wanted: tuple[int, ...]
) -> Callable[[], object]:
    leaves = [arg.clone().requires_grad_() if i in wanted else arg for i, arg in enumerate(args)]
    slope = torch.ones_like(op(*args))
    return lambda: torch.autograd.grad(op(*leaves), [leaves[i] for i in wanted], slope)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("name", SMALL)
def test_small_calls(name: str, backward: bool, benchmark: Any) -> None:
    ours, plain, args, wanted = SMALL[name]
    torch.testing.assert_close(ours(*args), plain(*args))
    calls: list[Callable[[], object]] = [
        both_ways(op, args, wanted) if backward else partial(op, *args) for op in (ours, plain)
    ]
    pairs = [[seconds(call, no_grad=not backward) for call in calls] for _ in range(ROUNDS)]
    benchmark.pedantic(calls[0], rounds=ROUNDS, iterations=CALLS)
    mine, theirs = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    over = statistics.median(pair[1] / pair[0] for pair in pairs)
    benchmark.extra_info.update(ours_us=1e6 * mine, plain_us=1e6 * theirs, ratio=over)
    print(f"\n{name}: {1e6 * mine:.1f} us, plain torch {1e6 * theirs:.1f} us")


def doors() -> dict[str, Callable[[], object]]:
    """Calls of compiled code alone, on the tensors of `SMALL`, into memory that is there."""
    (x, w, a, b, scale), (rows, gain, eps) = LORA, SMALL["rms_norm"][2]
    y, panels = torch.empty(4, 16), panels_of(w, backward=False)
    out, rstd, gate, up = torch.empty(4, 16), torch.empty(4), *SMALL["swiglu"][2]
    return {
        "lora_linear": lambda: _C.lora_linear_forward_alone(
            x, w, a, b, None, scale, panels, True, y, 1
        ),
        "rms_norm": lambda: _C.rms_norm_forward(rows, gain, eps, out, rstd, 1),
        "swiglu": lambda: _C.swiglu_forward(gate, up, out, 1),
    }


@pytest.mark.parametrize("name", SMALL)
def test_what_a_call_takes_beside_its_door(name: str, benchmark: Any) -> None:
    """Checks, the choice of a kernel, torch's modes, and the outputs' memory."""
    ours, _, args, _ = SMALL[name]
    whole, door = partial(ours, *args), doors()[name]
    pairs = [(seconds(whole, no_grad=True), seconds(door, no_grad=True)) for _ in range(ROUNDS)]
    beside = statistics.median(pair[0] - pair[1] for pair in pairs)
    benchmark.pedantic(door, rounds=ROUNDS, iterations=CALLS)
    benchmark.extra_info["beside_us"] = 1e6 * beside
    print(f"\n{name}: {1e6 * beside:.2f} us beside its door, {1e6 * pairs[0][1]:.2f} us")


def test_six_tensors_through_the_door(benchmark: Any) -> None:
    tensors = [torch.ones(shape) for shape in ((1, 1), (1, 1), (1,), (1,), (1, 1), (1,))]

    def call() -> None:
        _C.rms_norm_backward(*tensors, 1)

    taken = statistics.median(seconds(call) for _ in range(ROUNDS))
    benchmark.pedantic(call, rounds=ROUNDS, iterations=CALLS)
    benchmark.extra_info["us"] = 1e6 * taken
    print(f"\nsix tensors through the door, one number computed: {1e6 * taken:.2f} us")
