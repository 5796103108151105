"""Calls that are their kernel and nothing else, and what keeps one from being that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.lora_linear import reference
from crucible_kitchen.ops._library import direct
from crucible_kitchen.ops._lora_linear_cpu import panels_of

M, N, K, R = 3, 5, 4, 2


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(name: str) -> Callable[..., Any]:
    """The op as torch dispatches it."""
    made: Callable[..., Any] = getattr(torch.ops.crucible_kitchen, name).default
    return made


LORA = (drawn(M, K), drawn(N, K), drawn(R, K), drawn(N, R))
# By name: a call, and the same through torch's dispatcher.
CALLS: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "lora_linear": (
        lambda: ops.lora_linear(*LORA, 2.0, drawn(N)),
        lambda: whole("lora_linear")(*LORA, 2.0, drawn(N), 0.0, 0)[0],
    ),
    "rms_norm": (
        lambda: ops.rms_norm(drawn(M, K), drawn(K), 1e-5),
        lambda: whole("rms_norm")(drawn(M, K), drawn(K), 1e-5)[0],
    ),
    "swiglu": (
        lambda: ops.swiglu(drawn(M, K), drawn(K, M).T.contiguous()),
        lambda: whole("swiglu")(drawn(M, K), drawn(K, M).T.contiguous()),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_as_through_the_dispatcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, other = CALLS[name]
    want = other()

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("it asked the table")

    monkeypatch.setattr(ops.Op, "choose", never)
    got = call()
    assert torch.equal(got, want)
    assert got._version == 0
    with torch.inference_mode():
        assert torch.equal(call(), want)
        assert call().is_inference()


class Dispatching(TorchDispatchMode):
    """Sees what is dispatched."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Overriding(TorchFunctionMode):
    """Sees calls of torch's functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "around",
    [
        Dispatching,
        Overriding,
        forward_ad.dual_level,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
        lambda: ops.using("reference"),
    ],
)
def test_what_is_around_a_call_is_not_passed_by(
    around: Callable[[], AbstractContextManager[Any]],
) -> None:
    assert direct(drawn(2), None)
    with around():
        assert not direct(drawn(2), None)
    assert direct(drawn(2), None)


def test_nor_are_transforms() -> None:
    seen = []
    torch.func.vmap(lambda x: seen.append(direct(x)) or x)(drawn(2, 3))
    torch.compile(lambda x: seen.append(direct(x)) or x, backend="eager")(drawn(2, 3))
    assert seen == [False, False]


def test_gradients_and_subclasses() -> None:
    class Marked(Tensor):
        pass

    leaf = drawn(2).requires_grad_()
    assert not direct(drawn(2), leaf)
    assert not direct(drawn(2).as_subclass(Marked))
    with torch.no_grad():
        assert direct(drawn(2), leaf)
    with ops.using("cpu"):
        assert direct(drawn(2))


WIDE, NARROW = torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("gate", "up", "want"),
    [
        (WIDE, WIDE, True),
        (NARROW, NARROW, True),
        (WIDE, NARROW, False),
        (WIDE, torch.zeros(6, 4), False),
        (WIDE, torch.zeros(6, 4).T, False),
        (WIDE.half(), WIDE.half(), False),
        (WIDE, torch.zeros(4, 6, device="meta"), False),
        (WIDE, WIDE.to_sparse(), False),
    ],
)
def test_what_swiglu_takes_as_it_is(gate: Tensor, up: Tensor, want: bool) -> None:
    assert _C.swiglu_fits(gate, up) is want


@pytest.mark.parametrize(
    ("x", "weight", "want"),
    [
        (WIDE, torch.ones(6), True),
        (NARROW, torch.ones(6), True),
        (NARROW, torch.ones(6).bfloat16(), True),
        (WIDE, torch.ones(6).bfloat16(), False),
        (WIDE, torch.ones(4), False),
        (WIDE[None], torch.ones(6), False),
        (WIDE[:, :0], torch.ones(0), False),
        (torch.zeros(6, 4).T, torch.ones(6), False),
        (WIDE, torch.ones(12)[::2], False),
    ],
)
def test_what_rms_norm_takes_as_it_is(x: Tensor, weight: Tensor, want: bool) -> None:
    assert _C.rms_norm_fits(x, weight) is want


FITTING = {"x": drawn(M, K), "weight": drawn(N, K), "lora_a": drawn(R, K), "lora_b": drawn(N, R)}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"bias": drawn(N)},
        {"x": drawn(M, K).bfloat16(), "weight": drawn(N, K).bfloat16()},
        {"x": drawn(0, K)},
    ],
)
def test_what_lora_linear_takes_as_it_is(other: dict[str, Tensor]) -> None:
    given = {"bias": None} | FITTING | other
    y = written_alone(given, given["weight"])
    assert y is not None
    tensors = [given[name].double() for name in FITTING]
    bias = None if given["bias"] is None else given["bias"].double()
    want = reference.lora_linear(*tensors, 2.0, bias)
    torch.testing.assert_close(y.double(), want, rtol=1e-2, atol=1e-2)


def written_alone(
    given: dict[str, Any], packed: Tensor, *, y: Tensor | None = None, look: bool = True
) -> Tensor | None:
    """y of one layer, with the panels of that weight; None where the door did not write it."""
    panels = panels_of(packed, backward=False)
    if y is None:
        x = given["x"]
        y = torch.full((len(x), N), 7.0, dtype=x.dtype)
    tensors = (given[name] for name in (*FITTING, "bias"))
    written = _C.lora_linear_forward_alone(*tensors, 2.0, panels, look, y, 1)
    assert written or bool((y == 7.0).all())
    return y if written else None


@pytest.mark.parametrize(
    "other",
    [
        {"x": drawn(M, K + 1)},
        {"x": drawn(M, K).bfloat16()},
        {"x": drawn(1, M, K)},
        {"x": drawn(K, M).T},
        {"weight": drawn(N)},
        {"weight": drawn(K, N).T},
        {"weight": drawn(N, K).half(), "x": drawn(M, K).half()},
        {"lora_a": drawn(0, K)},
        {"lora_a": drawn(K)},
        {"lora_a": drawn(R, K).bfloat16()},
        {"lora_b": drawn(N, R + 1)},
        {"lora_b": drawn(R, N).T},
        {"bias": drawn(N + 1)},
        {"bias": torch.zeros(N, device="meta")},
    ],
)
def test_what_lora_linear_does_not(other: dict[str, Tensor]) -> None:
    given = {"bias": None} | FITTING | other
    assert written_alone(given, FITTING["weight"]) is None


@pytest.mark.parametrize(
    "y",
    [torch.full((M, N + 1), 7.0), torch.full((M, N), 7.0).bfloat16(), torch.full((N, M), 7.0).T],
)
def test_where_lora_linear_does_not_write(y: Tensor) -> None:
    assert written_alone({"bias": None} | FITTING, FITTING["weight"], y=y) is None


def test_more_rows_than_a_small_call_has() -> None:
    given = {"bias": None} | FITTING | {"x": drawn(4096, K)}
    assert written_alone(given, FITTING["weight"]) is None
    rows = ops.lora_linear(given["x"], *LORA[1:], 2.0)
    assert torch.equal(rows[:M], ops.lora_linear(given["x"][:M], *LORA[1:], 2.0))


@pytest.mark.parametrize("other", [drawn(N, K) + 1, drawn(N + 1, K), drawn(N, K).bfloat16()])
def test_panels_of_another_weight_are_seen(other: Tensor) -> None:
    given = {"bias": None} | FITTING
    assert written_alone(given, other) is None
    if other.shape == (N, K) and other.dtype == torch.float32:  # what a look is for
        assert written_alone(given, other, look=False) is not None


def test_the_next_call_sees_a_weight_that_changed() -> None:
    x, weight, a, b = (tensor.clone() for tensor in LORA)
    for change in (lambda: weight.mul_(3), lambda: weight.data.mul_(3), lambda: None):
        change()
        want = reference.lora_linear(x, weight, a, b, 2.0)
        torch.testing.assert_close(ops.lora_linear(x, weight, a, b, 2.0), want)


def test_a_weight_that_is_no_longer_frozen_is_refused() -> None:
    x, weight, a, b = (tensor.clone() for tensor in LORA)
    ops.lora_linear(x, weight, a, b, 2.0)
    weight.requires_grad_()
    with torch.no_grad(), pytest.raises(ValueError, match="weight must be frozen"):
        ops.lora_linear(x, weight, a, b, 2.0)


def test_what_only_gradients_need_is_not_kept() -> None:
    x, gain, y = drawn(M, K), drawn(K), torch.zeros(M, K)
    with pytest.raises(ValueError, match="rms_norm: rstd must be given for gradients"):
        _C.rms_norm_backward(y, x, gain, None, y, None, 1)
    with pytest.raises(ValueError, match="lora_linear: xa must be given for gradients"):
        _C.lora_linear_backward(
            x, [None], [drawn(M, N)], [M], [LORA[2]], [LORA[3]], [1.0], None, 0.0, [0], None,
            [None], [None], 1,
        )  # fmt: skip
