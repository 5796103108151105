"""Products of bfloat16 as integers of 16 bits, where the processor has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.ops import _lora_linear_cpu as cpu

pytestmark = pytest.mark.skipif(
    not _C.lora_linear_multiplies_int16(),
    reason=f"{_C.isa()} does not multiply integers of 16 bits",
)

RANK = 4
# Of K around one slice of the reduction, two and three, and odd.
SIZES = [(5, 7, 1), (3, 33, 47), (30, 192, 576), (17, 64, 577), (70, 40, 1729)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def both(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """y of a layer whose update is nothing, and the dx of it for a dy of y's own."""
    a, b = torch.zeros(RANK, x.shape[1]), torch.zeros(len(weight), RANK)
    leaf = x.clone().requires_grad_()
    y = ops.lora_linear(leaf, weight, a, b, 1.0)
    return y.detach(), torch.autograd.grad(y, leaf, y.detach())[0]


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("outlier", [1.0, 300.0], ids=["even", "outliers"])
@pytest.mark.parametrize("power", [-60, -12, 0, 60])
def test_the_result_is_as_good_as_its_rounding(
    size: tuple[int, int, int], outlier: float, power: int
) -> None:
    """Hidden states have a few columns far larger than the others; range is bfloat16's own."""
    M, N, K = size
    x, weight = drawn(M, K), drawn(N, K)
    x[:, :: max(1, K // 3)] *= outlier
    x *= 2.0**power
    y, dx = both(x, weight)
    for got, want in ((y, x.double() @ weight.double().T), (dx, y.double() @ weight.double())):
        rounding = error(want.bfloat16(), want)
        # Two independent errors, of which the integers' is at most 4e-4.
        assert error(got, want) <= (rounding**2 + 4e-4**2) ** 0.5


@pytest.mark.parametrize("depth", [2, 576, 1152, 1729])
def test_no_sum_overflows(depth: int) -> None:
    """Rows that point along the columns have the largest sums there are."""
    x, weight = torch.full((15, depth), 3.0).bfloat16(), torch.full((33, depth), -0.5).bfloat16()
    x[::2, ::2] *= -1
    weight[::3, ::2] *= -1
    y, dx = both(x, weight)
    for got, want in ((y, x.double() @ weight.double().T), (dx, y.double() @ weight.double())):
        aligned = want.abs() > want.abs().max() / 2
        torch.testing.assert_close(got.double()[aligned], want[aligned], rtol=2**-8, atol=0)


def test_slices_of_very_different_size() -> None:
    """Each has its own scale: the small one is not lost beside the large one where it counts."""
    x, weight = drawn(9, 1152), drawn(20, 1152)
    x[:, 576:] *= 2.0**-20
    weight[:, :576] *= 2.0**-20
    y, _ = both(x, weight)
    assert error(y, x.double() @ weight.double().T) < 3e-3


def test_zeros_and_numbers_that_are_not_finite() -> None:
    x, weight = drawn(20, 100), drawn(40, 100)
    x[3] = 0
    weight[7] = 0
    x[5, 1], x[6, 99], weight[33, 50] = float("nan"), float("inf"), float("nan")
    y, _ = both(x, weight)
    wrong = torch.zeros(y.shape, dtype=torch.bool)
    wrong[5] = wrong[6] = wrong[:, 33] = True
    assert torch.equal(y.isnan(), wrong)
    assert not y[3][~wrong[3]].any()
    assert not y[:, 7][~wrong[:, 7]].any()


def test_panels_are_made_once() -> None:
    weight = drawn(40, 100)
    panels = cpu.panels_of(weight, backward=False)
    assert panels.dtype == torch.int16
    assert cpu.panels_of(weight, backward=False) is panels


def test_a_change_through_data_is_seen() -> None:
    x, weight = drawn(9, 100), drawn(40, 100)
    both(x, weight)
    weight.data.mul_(1.01)
    y, dx = both(x, weight)
    assert error(y, x.double() @ weight.double().T) < 3e-3
    assert error(dx, y.double() @ weight.double()) < 3e-3


def test_float32_weights_have_no_such_panels() -> None:
    panels = torch.empty(_C.lora_linear_panels_numel(40, 100, False, True), dtype=torch.int16)
    with pytest.raises(TypeError, match=r"panels must be torch.float32, got torch.int16"):
        _C.lora_linear_pack(drawn(40, 100).float(), panels, False, 1)


# Standard deviations of the logits: an untrained model's, a language model's of text, and one that
# is sure of everything.
SPREADS = [0.01, 2.5, 30.0]


def head(spread: float, T: int = 40, H: int = 576, V: int = 9000) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(V, (T,), generator=generator)
    hidden = drawn(T, H) * spread
    hidden[:, 5] *= 20  # as models have
    return hidden, drawn(V, H) / H**0.5, targets


@pytest.mark.parametrize("spread", SPREADS)
def test_log_probabilities_keep_their_digits(spread: float) -> None:
    hidden, weight, targets = head(spread)
    got = ops.linear_logprobs(hidden, weight, targets)
    logits = hidden.double() @ weight.double().T
    want = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert float((got.double() - want).abs().max()) <= 1e-4  # nats
    assert float(((got.double() - want) / want).abs().max()) <= 1e-5


@pytest.mark.parametrize("spread", SPREADS)
def test_the_gradient_is_as_good_as_its_rounding(spread: float) -> None:
    hidden, weight, targets = head(spread)
    hidden.requires_grad_()
    got = torch.autograd.grad(ops.linear_logprobs(hidden, weight, targets).sum(), hidden)[0]
    share = -(hidden.detach().double() @ weight.double().T).softmax(-1)
    share[torch.arange(len(targets)), targets] += 1
    want = share @ weight.double()
    rounding = error(want.bfloat16(), want)
    assert error(got, want) <= (rounding**2 + 4e-4**2) ** 0.5


def test_tokens_have_the_same_bits_alone_and_on_any_number_of_threads() -> None:
    hidden, weight, targets = head(2.5, T=70)
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            made.append(ops.linear_logprobs(hidden, weight, targets))
    finally:
        torch.set_num_threads(threads)
    made.append(torch.cat([ops.linear_logprobs(hidden[i : i + 7], weight, targets[i : i + 7])
                           for i in range(0, 70, 7)]))  # fmt: skip
    for other in made[1:]:
        assert torch.equal(made[0], other)


def test_a_hidden_state_that_is_not_finite_stays_alone() -> None:
    hidden, weight, targets = head(2.5)
    want = ops.linear_logprobs(hidden, weight, targets)
    hidden[3, 7], hidden[4, 8] = float("nan"), float("inf")
    got = ops.linear_logprobs(hidden, weight, targets)
    assert got[3:5].isnan().all()
    assert torch.equal(got[5:], want[5:])
