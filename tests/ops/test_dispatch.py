"""A call goes straight to its kernel, except where somebody watches what torch dispatches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crucible_kitchen import ops

GATE, UP = torch.randn(3, 5), torch.randn(3, 5)
OP = torch.ops.crucible_kitchen.swiglu.default


class Watching(TorchDispatchMode):
    """Keeps what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """A subclass, which torch asks about every op."""


def test_a_mode_sees_the_op_and_its_gradient() -> None:
    with Watching() as watching:
        ops.swiglu(GATE.requires_grad_(), UP).sum().backward()
    assert OP in watching.seen
    assert torch.ops.crucible_kitchen.swiglu_backward.default in watching.seen


def test_a_profile_names_the_op() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        ops.swiglu(GATE, UP)
    assert "crucible_kitchen::swiglu" in {event.name for event in profile.events()}


def test_a_subclass_stays_one() -> None:
    assert isinstance(ops.swiglu(GATE.detach().as_subclass(Marked), UP), Marked)


@pytest.mark.filterwarnings("ignore")  # of a trace that holds for these shapes only
def test_a_trace_has_the_op() -> None:
    traced = torch.jit.trace(ops.swiglu, (GATE.detach(), UP))
    assert "crucible_kitchen::swiglu" in str(traced.graph)


def test_nothing_is_dispatched_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, *args: Any) -> Any:
        raise AssertionError("it went through torch's dispatcher")

    monkeypatch.setattr(type(OP), "__call__", never)
    gate = GATE.detach().requires_grad_()
    ops.swiglu(gate, UP).sum().backward()
    assert gate.grad is not None
