"""A step of AdamW waits for no device: its norm stays there until the host reads it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from crucible_kitchen.optim import AdamW
from crucible_kitchen.optim.global_norm import Unread

READ = "aten._local_scalar_dense.default"  # what .item(), float() and .tolist() come down to


class Calls(TorchDispatchMode):
    """Writes down which ops run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def with_gradient(value: float = 0.5) -> nn.Parameter:
    param = nn.Parameter(torch.linspace(-1, 1, 5000))
    param.grad = torch.full_like(param, value)
    return param


@pytest.mark.parametrize("state_bits", [8, 32])
def test_the_norm_is_read_once_and_after_the_step(state_bits: int) -> None:
    optimizer = AdamW([with_gradient(), with_gradient()], max_grad_norm=1.0, state_bits=state_bits)
    with Calls() as calls:
        optimizer.step()
        assert READ not in calls.names
        norm, update = (f"crucible_kitchen.{op}.default" for op in ("grad_norm", "adamw_step"))
        assert calls.names.index(norm) < calls.names.index(update)
        assert optimizer.last_grad_norm == pytest.approx(0.5 * 10_000**0.5)
        assert not optimizer.last_step_skipped
        assert calls.names.count(READ) == 1


def test_a_step_reads_the_norm_of_the_one_before_only() -> None:
    optimizer = AdamW([with_gradient()])
    with Calls() as calls:
        for steps in range(1, 4):
            optimizer.step()
            assert calls.names.count(READ) == steps - 1


def test_a_step_needs_no_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors that say they are on CUDA and hold nothing."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the stream")
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(70, 70, device="cuda")) for _ in range(2)]
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer = AdamW(params, max_grad_norm=1.0)
        optimizer.step()
        with pytest.raises(DataDependentOutputException):
            _ = optimizer.last_grad_norm


@pytest.mark.parametrize("state_bits", [8, 32])
@pytest.mark.parametrize("look", [True, False])
def test_a_skipped_step_is_as_if_it_had_not_been(state_bits: int, look: bool) -> None:
    """Also where nobody looks whether it was skipped: the next one has its number."""
    params = [with_gradient() for _ in range(2)]
    all_finite, one_not = (
        AdamW([param], state_bits=state_bits, max_grad_norm=3.0) for param in params
    )
    for value in (0.25, 0.75):
        params[0].grad = torch.full_like(params[0], value)
        all_finite.step()
    for value in (math.nan, 0.25, math.inf, 0.75):
        params[1].grad = torch.full_like(params[1], value)
        one_not.step()
        if look:
            assert one_not.last_step_skipped == (not math.isfinite(value))
    assert torch.equal(*params)
    want, got = (optimizer.state_dict()["state"][0] for optimizer in (all_finite, one_not))
    assert want["step"] == 2
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_a_state_is_saved_and_loaded_without_steps_that_were_skipped() -> None:
    param = with_gradient(math.inf)
    optimizer = AdamW([param])
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["step"] == 0
    optimizer.step()
    optimizer.load_state_dict(saved)
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert optimizer.state_dict()["state"][0]["step"] == 1
    assert not optimizer.last_step_skipped


class Event:
    """As torch.cuda.Event, writing down what it is told."""

    told: list[str]

    def __init__(self) -> None:
        self.told = []

    def record(self, stream: str) -> None:
        self.told.append(f"record on {stream}")

    def synchronize(self) -> None:
        self.told.append("synchronize")


def test_a_norm_on_cuda_is_copied_at_once_and_waited_for_when_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event, copies = Event(), []

    class OnCuda:
        is_cuda, device = True, "cuda:1"

        def to(self, where: str, *, non_blocking: bool) -> Tensor:
            copies.append((where, non_blocking, list(event.told)))
            return torch.tensor(3.0)

    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    on_cuda: Any = OnCuda()
    unread = Unread(on_cuda)
    assert copies == [("cpu", True, [])]
    assert event.told == ["record on the stream of cuda:1"]
    assert unread.read() == 3.0
    assert event.told[1:] == ["synchronize"]
