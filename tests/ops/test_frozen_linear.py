"""A frozen layer without an update by `lora_linear`'s kernel."""

import pytest
import torch
from torch import nn

from crucible_kitchen import _C, ops
from crucible_kitchen.ops import _frozen_linear
from crucible_kitchen.ops._frozen_linear import frozen_linear, takes

# Around one tile and one slice of the reduction, two and three, and odd.
SIZES = [(1, 7, 1), (3, 33, 47), (8, 192, 576), (70, 64, 577), (17, 40, 1729)]
BOTH = pytest.mark.parametrize("straight", [False, True], ids=["turned", "straight"])
# float32 sums of some hundred products in another order; bfloat16 is checked by its rounding.
CLOSE = 2e-6


@pytest.fixture(autouse=True)
def _it_pays(monkeypatch):
    """On every processor: what is slower elsewhere must be right there too."""
    monkeypatch.setattr(_frozen_linear, "PAYS", True)


def drawn(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def layer(size, straight, dtype=torch.bfloat16):
    M, N, K = size
    weight = drawn(N, K, dtype=dtype)
    return drawn(M, K, dtype=dtype), weight.T.contiguous() if straight else weight


def product(x, weight, straight):
    return x.double() @ (weight.double() if straight else weight.double().T)


def error(got, want):
    return float((got.detach().double() - want).norm() / want.norm())


@BOTH
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("outlier", [1.0, 300.0], ids=["even", "outliers"])
def test_results_and_gradients_are_as_good_as_their_rounding(size, straight, outlier):
    """torch's own bfloat16 rounds the same sums once, too: that is all its error."""
    x, weight = layer(size, straight)
    x[:, :: max(1, size[2] // 3)] *= outlier  # as hidden states have
    x.requires_grad_()
    bias = drawn(size[1])
    y = frozen_linear(x, weight, bias, straight=straight)
    dy = drawn(*y.shape)
    (dx,) = torch.autograd.grad(y, x, dy)
    want_y = product(x.detach(), weight, straight) + bias.double()
    for got, want in ((y, want_y), (dx, product(dy, weight, not straight))):
        assert got.dtype == torch.bfloat16
        # Two independent errors, of which that of integers is at most 4e-4, and floats' is none.
        assert error(got, want) <= (error(want.bfloat16(), want) ** 2 + 4e-4**2) ** 0.5


@BOTH
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernel_without_updates_in_float32(size, straight):
    x, weight = layer(size, straight, torch.float32)
    got = _frozen_linear._run(x, weight, None, straight, False)
    assert error(got, product(x, weight, straight)) <= CLOSE


@BOTH
def test_a_row_has_the_same_bits_beside_any_others_and_on_any_number_of_threads(straight):
    x, weight = layer((150, 100, 200), straight)
    want, threads = frozen_linear(x, weight, straight=straight), torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(frozen_linear(x, weight, straight=straight), want)
    finally:
        torch.set_num_threads(threads)
    alone = torch.cat([frozen_linear(row[None], weight, straight=straight) for row in x])
    assert torch.equal(alone, want)


@BOTH
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_that_nobody_rounds(size, straight):
    x, weight = layer(size, straight)
    x.requires_grad_()
    y = frozen_linear(x, weight, straight=straight, wide=True)
    assert y.dtype == torch.float32
    assert error(y, product(x.detach(), weight, straight)) <= 4e-4  # integers', floats' less
    narrow = frozen_linear(x, weight, straight=straight)
    assert torch.equal(y.bfloat16(), narrow)
    dy = drawn(*y.shape)
    slopes = [torch.autograd.grad(o, x, dy.to(o.dtype))[0] for o in (y, narrow)]
    assert torch.equal(*slopes)


@BOTH
def test_rows_of_any_shape(straight):
    x, weight = layer((24, 20, 30), straight)
    want = frozen_linear(x, weight, straight=straight)
    assert torch.equal(frozen_linear(x.view(2, 3, 4, 30), weight, straight=straight),
                       want.view(2, 3, 4, 20))  # fmt: skip
    assert torch.equal(frozen_linear(x.T.contiguous().T, weight, straight=straight), want)
    assert frozen_linear(x[:0], weight, straight=straight).shape == (0, 20)
    assert torch.equal(frozen_linear(x[0], weight, straight=straight), want[0])


def test_it_is_a_node_of_torch_that_can_be_differentiated_again():
    x, weight = layer((6, 20, 30), False)
    x.requires_grad_()
    dy = drawn(6, 20).requires_grad_()
    (dx,) = torch.autograd.grad(frozen_linear(x, weight), x, dy, create_graph=True)
    (again,) = torch.autograd.grad(dx, dy, x.detach())
    assert torch.equal(again, frozen_linear(x.detach(), weight))


def test_torchs_own_checks_of_an_op():
    x, weight = layer((6, 20, 30), False)
    args = (x.requires_grad_(), weight, drawn(20), False, False)
    made = torch.library.opcheck(torch.ops.crucible_kitchen.frozen_linear.default, args)
    assert set(made.values()) == {"SUCCESS"}


def test_what_it_takes():
    x, weight = layer((6, 20, 30), False)
    assert takes(x, weight, None)
    assert takes(x, nn.Parameter(weight, requires_grad=False), drawn(20))
    trained = nn.Parameter(drawn(20))
    assert not takes(x, weight, trained)
    assert not takes(x, nn.Parameter(weight), None)
    assert not takes(x.float(), weight.float(), None)
    assert not takes(x.float(), weight, None)
    assert not takes(x.to("meta"), weight.to("meta"), None)
    with ops.using("reference"):
        assert not takes(x, weight, None)
    assert not torch.func.vmap(lambda row: torch.tensor(takes(row, weight, None)))(x).any()


def test_a_subclass_of_tensor_is_left_to_torch():
    class Theirs(torch.Tensor):
        pass

    x, weight = layer((6, 20, 30), False)
    assert not takes(x.as_subclass(Theirs), weight, None)
    assert not takes(x, weight.as_subclass(Theirs), None)


def test_where_it_pays(monkeypatch):
    monkeypatch.undo()
    tiles = torch.cpu._is_amx_tile_supported()
    assert (_C.lora_linear_multiplies_int16() and not tiles) == _frozen_linear.PAYS


def test_the_door_refuses_rows_that_nothing_updates():
    """Rows must sum to those of x where there are any."""
    x, weight = layer((6, 20, 30), False, torch.float32)
    panels = torch.empty(_C.lora_linear_panels_numel(20, 30, False))
    _C.lora_linear_pack(weight, panels, False, 1)
    a, b = drawn(2, 30, dtype=torch.float32), drawn(20, 2, dtype=torch.float32)
    y = torch.empty(6, 20)
    with pytest.raises(ValueError, match="rows must sum to M = 6, got 5"):
        _C.lora_linear_forward(x, [panels], [], [y], [5], [a], [b], [1.0], None, 0.0, [0], 1)
