"""`optim.AdamW` is torch's AdamW, step for step, with clipping inside and a guard around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from crucible_kitchen.optim import AdamW

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def make_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 7), (11,), (1, 3), (2, 3, 4), (0,))
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def make_grads(steps: int, params: list[nn.Parameter]) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]


def train(
    optimizer: torch.optim.Optimizer,
    params: list[nn.Parameter],
    steps: int = 20,
    before_step: Callable[[], object] = lambda: None,
) -> None:
    for grads in make_grads(steps, params):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        before_step()
        optimizer.step()


def assert_close(got: list[nn.Parameter], want: list[nn.Parameter], relative: float) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= relative * b.norm()


def test_twenty_steps_are_torchs() -> None:
    ours, theirs = make_params(), make_params()
    train(AdamW(ours, **SETTINGS), ours)
    train(torch.optim.AdamW(theirs, **SETTINGS), theirs)
    assert_close(ours, theirs, 1e-6)


def test_clipping_is_torchs() -> None:
    ours, theirs = make_params(), make_params()
    clipped = AdamW(ours, **SETTINGS, max_grad_norm=0.7)
    norms: list[float] = []

    def clip() -> None:
        norms.append(float(nn.utils.clip_grad_norm_(theirs, 0.7)))

    train(torch.optim.AdamW(theirs, **SETTINGS), theirs, before_step=clip)
    train(clipped, ours)
    assert min(norms) > 0.7, "the gradients never needed clipping"
    assert_close(ours, theirs, 2e-6)
    assert clipped.last_grad_norm == pytest.approx(norms[-1], rel=1e-6)


def test_bfloat16_parameters_keep_float32_moments() -> None:
    ours = make_params(torch.bfloat16)
    exact = [nn.Parameter(p.detach().float()) for p in ours]
    optimizer = AdamW(ours, **SETTINGS)
    train(optimizer, ours)

    def round_as_ours_are() -> None:
        for param in exact:
            param.data = param.data.bfloat16().float()
            assert param.grad is not None
            param.grad = param.grad.bfloat16().float()

    train(torch.optim.AdamW(exact, **SETTINGS), exact, before_step=round_as_ours_are)
    assert all(optimizer.state[p]["exp_avg"].dtype == torch.float32 for p in ours)
    # The last step of `exact` is not rounded: half a unit of 8 bits.
    assert_close(ours, exact, 2.0**-9)


def test_stochastic_rounding_keeps_updates_that_rounding_to_nearest_loses() -> None:
    def moved(stochastic_rounding: bool) -> float:
        param = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = AdamW(
            [param], lr=1e-4, weight_decay=0.0, stochastic_rounding=stochastic_rounding
        )
        for _ in range(20):
            param.grad = torch.ones_like(param)
            optimizer.step()
        return 1 - param.detach().double().mean().item()

    assert moved(stochastic_rounding=False) == 0.0
    # Each step moves by lr. One element's rounding has a spread below 2^-8; the mean of 4096
    # elements over 20 steps has one below 3e-4, and the walk is a half of it at the most.
    assert moved(stochastic_rounding=True) == pytest.approx(20 * 1e-4, abs=3e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told(bad: float) -> None:
    params = make_params()
    optimizer = AdamW(params, **SETTINGS)
    train(optimizer, params, steps=2)
    assert not optimizer.last_step_skipped
    before = copy.deepcopy((params, optimizer.state_dict()))
    params[3].grad[1, 2, 3] = bad  # type: ignore[index]
    optimizer.step()
    assert optimizer.last_step_skipped
    assert not math.isfinite(optimizer.last_grad_norm or 0.0)
    after = (params, optimizer.state_dict())
    for a, b in zip(before[0], after[0], strict=True):
        assert torch.equal(a, b)
    for key, state in before[1]["state"].items():
        assert all(torch.equal(state[name], after[1]["state"][key][name]) for name in state)
    params[3].grad[1, 2, 3] = 0.0  # type: ignore[index]
    optimizer.step()
    assert not optimizer.last_step_skipped


@pytest.mark.parametrize(
    ("first", "second"), [(AdamW, torch.optim.AdamW), (torch.optim.AdamW, AdamW)]
)
def test_each_loads_the_others_state(
    first: type[torch.optim.Optimizer], second: type[torch.optim.Optimizer]
) -> None:
    params = make_params()
    before = first(params, **SETTINGS)  # type: ignore[call-arg]
    train(before, params, steps=5)
    moved = copy.deepcopy(params)
    after = second(moved, lr=1.0)  # type: ignore[call-arg]
    after.load_state_dict(copy.deepcopy(before.state_dict()))  # torch's shares the moments
    assert after.param_groups[0]["lr"] == SETTINGS["lr"]
    train(before, params)
    train(after, moved)
    assert_close(moved, params, 1e-6)


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    params = make_params(torch.bfloat16)
    before = AdamW(params, **SETTINGS, stochastic_rounding=True, seed=3)
    train(before, params, steps=5)
    resumed = copy.deepcopy(params)
    after = AdamW(resumed, **SETTINGS, stochastic_rounding=True, seed=3)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(before, params, steps=5)
    train(after, resumed, steps=5)
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


def test_a_loaded_state_is_not_shared() -> None:
    params = make_params()
    before = AdamW(params, **SETTINGS)
    train(before, params, steps=1)
    saved = before.state_dict()
    mean = saved["state"][0]["exp_avg"].clone()
    other = make_params()
    after = AdamW(other, **SETTINGS)
    after.load_state_dict(saved)
    train(after, other, steps=1)
    assert torch.equal(mean, saved["state"][0]["exp_avg"])


@pytest.mark.parametrize("changed", [{"amsgrad": True}, {"maximize": True}])
def test_a_state_it_cannot_continue_is_refused(changed: dict[str, bool]) -> None:
    params = make_params()
    saved = torch.optim.AdamW(params, **changed).state_dict()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="amsgrad"):
        AdamW(params).load_state_dict(saved)


def test_groups_closures_schedulers_and_missing_gradients() -> None:
    params = make_params()
    optimizer = AdamW(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.0, "weight_decay": 0.5}], lr=1e-2
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = copy.deepcopy(params)

    def closure() -> float:
        optimizer.zero_grad()
        loss = params[0].square().sum() + params[2].sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    assert optimizer.step(closure) == pytest.approx(
        float((before[0].square().sum() + before[2].sum()).detach())
    )
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)
    assert not torch.equal(params[0], before[0])
    assert torch.equal(params[1], before[1]), "no gradient"
    assert torch.equal(params[2], before[2]), "lr 0"
    assert params[1] not in optimizer.state


def test_a_step_without_any_gradient_does_nothing() -> None:
    optimizer = AdamW(make_params())
    optimizer.step()
    assert (optimizer.last_grad_norm, optimizer.last_step_skipped) == (0.0, False)


def test_a_changed_parameter_shows_in_its_version() -> None:
    """Saved activations and packed weights rely on it."""
    params = make_params()
    version = params[0]._version
    train(AdamW(params), params, steps=1)
    assert params[0]._version > version


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": -1.0}, "lr must be 0 or more, got -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        ({"eps": -1e-8}, "eps must be 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay must be 0 or more, got nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be 0 or more, got -1.0"),
    ],
)
def test_bad_constants(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamW(make_params(), **wrong)  # type: ignore[arg-type]


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense"):
        AdamW(table.parameters()).step()


def test_under_a_grad_scaler_as_torchs() -> None:
    ours, theirs = make_params()[:3], make_params()[:3]
    for params, optimizer in ((ours, AdamW(ours, **SETTINGS)), (theirs, _torchs(theirs))):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        for step in range(5):
            optimizer.zero_grad()
            loss = sum((p * (step + 1)).square().sum() for p in params)
            scaler.scale(loss).backward()
            if step == 2:
                params[0].grad[0, 0] = math.inf  # type: ignore[index]
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[params[0]]["step"] == 4, "the step with an infinity is skipped"
    assert_close(ours, theirs, 1e-6)


def _torchs(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, **SETTINGS)


def test_a_scheduler_that_moves_the_betas_too() -> None:
    ours, theirs = make_params(), make_params()
    for params, optimizer in ((ours, AdamW(ours, **SETTINGS)), (theirs, _torchs(theirs))):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)
        for grads in make_grads(20, params):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            optimizer.step()
            scheduler.step()
    assert_close(ours, theirs, 1e-6)


def test_a_group_added_later_and_a_rate_that_is_a_tensor() -> None:
    ours, theirs = make_params(), make_params()
    for params, kind in ((ours, AdamW), (theirs, torch.optim.AdamW)):
        optimizer = kind(params[:2], lr=torch.tensor(1e-2))
        train(optimizer, params[:2], steps=2)
        optimizer.add_param_group({"params": params[2:], "weight_decay": 0.3})
        train(optimizer, params, steps=3)
    assert_close(ours, theirs, 1e-6)
