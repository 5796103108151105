"""AdamW with float32 masters of bfloat16 parameters, and with running means in 8 bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crucible_kitchen import ops
from crucible_kitchen.kernels.adamw_step.eight_bit import (
    BLOCK,
    dequantize,
    dynamic_code,
    quantize,
)
from crucible_kitchen.optim import AdamW

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def make(dtype: torch.dtype = torch.float32, shape: tuple[int, int] = (65, 67)) -> nn.Parameter:
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(shape, generator=generator).to(dtype))


def train(optimizer: torch.optim.Optimizer, *params: nn.Parameter, steps: int = 10) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize("signed", [True, False])
def test_the_code_is_256_numbers_that_rise_to_one(signed: bool) -> None:
    code = dynamic_code(signed=signed)
    assert len(code) == len(set(code)) == 256
    assert code == sorted(code)
    assert (code[-1], 0.0 in code) == (1.0, True)
    assert min(code) == (-max(code[:-1]) if signed else 0.0)


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_kept_is_the_nearest_number_of_each_block(signed: bool) -> None:
    values = torch.randn(3, 211, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = values if signed else values.square()
    codes, scales = quantize(values, signed=signed)
    assert (codes.dtype, codes.shape, len(scales)) == (torch.uint8, values.shape, 3)
    code = torch.tensor(dynamic_code(signed=signed), dtype=torch.float64)
    unit = values.flatten().double() / scales.double().repeat_interleave(BLOCK)[:633]
    nearest = (unit[:, None] - code).abs().argmin(1)
    assert torch.equal(codes.flatten().long(), nearest)
    kept = dequantize(codes, scales, signed=signed)
    torch.testing.assert_close(
        kept.flatten().double(),
        code[nearest] * (unit.new_tensor(scales.tolist()).repeat_interleave(BLOCK)[:633]),
        rtol=1e-6,
        atol=0,
    )
    assert float((kept - values).norm() / values.norm()) < 0.02


def test_zeros_and_nothing_are_kept() -> None:
    for values in (torch.zeros(300), torch.zeros(0)):
        assert torch.equal(dequantize(*quantize(values, signed=True), signed=True), values)


def test_eight_bits_train_as_32_do() -> None:
    narrow, wide = make(), make()
    first = narrow.detach().clone()
    train(AdamW([narrow], **SETTINGS, state_bits=8), narrow, steps=20)
    train(AdamW([wide], **SETTINGS), wide, steps=20)
    moved = (wide - first).norm()
    assert 0 < (narrow - wide).norm() < 0.05 * moved


def test_eight_bits_take_a_quarter_of_the_memory() -> None:
    big, small = make(), nn.Parameter(torch.ones(9))
    optimizer = AdamW([big, small], **SETTINGS, state_bits=8)
    train(optimizer, big, small, steps=1)
    sizes = {n: t.numel() * t.itemsize for n, t in optimizer.state[big].items() if n != "step"}
    assert sum(sizes.values()) < 0.26 * 8 * big.numel()
    assert optimizer.state[small]["exp_avg"].dtype == torch.float32


def test_sixteen_bits_train_as_32_do_in_half_the_memory() -> None:
    narrow, wide = make(), make()
    first, optimizer = narrow.detach().clone(), AdamW([narrow], **SETTINGS, state_bits=16)
    train(optimizer, narrow, steps=20)
    train(AdamW([wide], **SETTINGS), wide, steps=20)
    assert 0 < (narrow - wide).norm() < 0.02 * (wide - first).norm()
    assert {t.dtype for n, t in optimizer.state[narrow].items() if n != "step"} == {torch.bfloat16}


def test_sixteen_bits_take_over_what_torch_keeps_for_bfloat16_and_give_it_back() -> None:
    ours, torchs = make(torch.bfloat16), make(torch.bfloat16)
    theirs = torch.optim.AdamW([torchs], **SETTINGS)
    train(theirs, torchs, steps=2)
    mine = AdamW([ours], **SETTINGS, state_bits=16)
    mine.load_state_dict(theirs.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(mine.state[ours][name], theirs.state[torchs][name])
    theirs.load_state_dict(mine.state_dict())
    train(theirs, torchs, steps=1)


def test_a_transposed_parameter_is_stepped_as_it_lies_in_memory() -> None:
    plain, turned = make(), nn.Parameter(make().detach().T)
    optimizers = [AdamW([param], **SETTINGS, state_bits=8) for param in (plain, turned)]
    for _ in range(3):
        plain.grad = torch.randn(plain.shape)
        turned.grad = plain.grad.T
        with ops.using("cpu"):
            for optimizer in optimizers:
                optimizer.step()
    assert not turned.is_contiguous()
    assert torch.equal(turned.T, plain)


def test_codes_in_another_order_are_taken_over() -> None:
    plain, turned = make(), nn.Parameter(make().detach().T.contiguous().T)
    before = AdamW([plain], **SETTINGS, state_bits=8)
    train(before, plain, steps=2)
    after = AdamW([turned], **SETTINGS, state_bits=8)
    after.load_state_dict(before.state_dict())
    want, got = (
        dequantize(o.state[p]["exp_avg"], o.state[p]["exp_avg_scales"], signed=True)
        for o, p in ((before, plain), (after, turned))
    )
    assert got.stride() == turned.stride()
    assert (got - want).norm() < 0.02 * want.norm()


def test_a_master_adds_up_what_bfloat16_would_lose() -> None:
    small = {**SETTINGS, "lr": 1e-5, "weight_decay": 0.0}
    kept, lost, exact = (make(dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32))
    exact.data.copy_(kept)
    with_master = AdamW([kept], **small, master_weights=True)
    for optimizer, param in ((with_master, kept), (AdamW([lost], **small), lost)):
        for _ in range(60):
            param.grad = torch.ones_like(param)
            optimizer.step()
    reference = AdamW([exact], **small)
    for _ in range(60):
        exact.grad = torch.ones_like(exact)
        reference.step()
    assert torch.equal(with_master.state[kept]["master"], exact)
    assert torch.equal(kept, exact.bfloat16())
    assert (lost - kept).float().abs().max() > 0


@pytest.mark.parametrize(
    "how",
    [
        {"state_bits": 8},
        {"state_bits": 16},
        {"master_weights": True},
        {"state_bits": 8, "master_weights": True},
        {"state_bits": 16, "master_weights": True},
    ],
)
def test_a_state_goes_on_bit_for_bit(how: dict[str, Any]) -> None:
    whole, resumed = make(torch.bfloat16), make(torch.bfloat16)
    optimizer = AdamW([whole], **SETTINGS, **how)
    train(optimizer, whole, steps=3)
    resumed.data.copy_(whole)
    other = AdamW([resumed], **SETTINGS, **how)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, param in ((optimizer, whole), (other, resumed)):
        train(one, param, steps=2)
    assert torch.equal(whole, resumed)
    for name, value in optimizer.state[whole].items():
        same = (
            torch.equal(value, other.state[resumed][name])
            if isinstance(value, Tensor)
            else value == other.state[resumed][name]
        )
        assert same, name


def test_states_of_other_bits_are_taken_over() -> None:
    wide, narrow, torchs = make(), make(), make()
    optimizer = torch.optim.AdamW([torchs], **SETTINGS)
    train(optimizer, torchs, steps=2)
    in_eight = AdamW([narrow], **SETTINGS, state_bits=8)
    in_eight.load_state_dict(optimizer.state_dict())
    assert in_eight.state[narrow]["exp_avg"].dtype == torch.uint8
    back = AdamW([wide], **SETTINGS)
    back.load_state_dict(in_eight.state_dict())
    want, got = optimizer.state[torchs]["exp_avg"], back.state[wide]["exp_avg"]
    assert (got - want).norm() < 0.02 * want.norm()


def test_what_cannot_be_is_refused() -> None:
    param = make(torch.bfloat16)
    with pytest.raises(ValueError, match="state_bits must be 8, 16 or 32, got 4"):
        AdamW([param], state_bits=4)
    with pytest.raises(ValueError, match="stochastic_rounding must be False with master_weights"):
        AdamW([param], master_weights=True, stochastic_rounding=True)
    masters = AdamW([param], **SETTINGS, master_weights=True)
    train(masters, param, steps=1)
    with pytest.raises(ValueError, match="master_weights must be True for a state with masters"):
        AdamW([param], **SETTINGS).load_state_dict(masters.state_dict())
