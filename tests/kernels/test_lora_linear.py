"""What the conformance test cannot see of lora_linear: panels, dtypes, threads, checks."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.kernels.common.hash import kept
from crucible_kitchen.kernels.lora_linear import cases
from crucible_kitchen.kernels.lora_linear.reference import lora_linear as reference
from crucible_kitchen.ops import _lora_linear_cpu as cpu

TOLERANCE = {torch.float32: 8e-6, torch.bfloat16: 2.0**-8}

ON_THE_CPU = (torch.float32, torch.bfloat16)  # what the compiled kernel takes


def inputs(size: str = "odd", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return cases.inputs(cases.SIZES[size], dtype, "cpu")


def agrees(got: Tensor, want: Tensor) -> bool:
    return bool((got.double() - want).norm() <= TOLERANCE[got.dtype] * want.norm())


def exact(*args: Any) -> Tensor:
    return reference(*(a.double() if isinstance(a, Tensor) else a for a in args))


def test_the_cpu_kernel_is_chosen() -> None:
    x = inputs()[0]
    assert ops.explain("lora_linear", x).chosen == "cpu"
    assert ops.explain("lora_linear", x.half()).chosen == "reference"


@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_a_change_of_the_weight_in_place_is_seen(dtype: torch.dtype) -> None:
    x, weight, *rest = inputs(dtype=dtype)
    ops.lora_linear(x, weight, *rest)
    weight.mul_(2)
    assert agrees(ops.lora_linear(x, weight, *rest), exact(x, weight, *rest))


@pytest.mark.parametrize("replace", [False, True], ids=["in place", "replaced"])
def test_a_change_through_data_is_seen_in_both_directions(replace: bool) -> None:
    x, weight, *rest = inputs()
    x.requires_grad_()
    for _ in range(2):
        y = ops.lora_linear(x, weight, *rest)
        (dx,) = torch.autograd.grad(y.sum(), x)
        want = exact(x, weight, *rest)
        assert agrees(y, want)
        assert agrees(dx, torch.autograd.grad(exact(x, weight, *rest).sum(), x)[0].double())
        version = weight._version
        if replace:
            weight.data = weight.data * 3
        else:
            weight.data.mul_(3)
        assert weight._version == version, "else the counter alone would have told"


def test_a_weight_is_packed_once_a_direction_and_forgotten_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[bool] = []
    pack = _C.lora_linear_pack

    def counted(weight: Tensor, panels: Tensor, backward: bool, threads: int) -> None:
        packed.append(backward)
        pack(weight, panels, backward, threads)

    monkeypatch.setattr(_C, "lora_linear_pack", counted)
    x, weight, *rest = inputs()
    x.requires_grad_()
    gc.collect()  # of what other tests have left
    before = len(cpu._FOR_FORWARD), len(cpu._FOR_BACKWARD)
    for _ in range(3):
        ops.lora_linear(x, weight, *rest).sum().backward()
    assert packed == [False, True]
    del weight
    gc.collect()
    assert (len(cpu._FOR_FORWARD), len(cpu._FOR_BACKWARD)) == before


def test_panels_go_with_the_memory_of_their_weight() -> None:
    """FSDP2 takes it away behind a layer and fills it again in front, past the version counter."""
    x, weight, *rest = inputs()
    other, values, version = weight.clone(), weight.clone(), weight._version
    ops.lora_linear(x, weight, *rest)
    memory = weight.untyped_storage()
    size = memory.nbytes()
    memory.resize_(0)
    assert id(weight) in cpu._FOR_FORWARD
    ops.lora_linear(x, other, *rest)
    assert id(weight) not in cpu._FOR_FORWARD
    memory.resize_(size)
    weight.data.copy_(values * 3)
    assert weight._version == version
    assert agrees(ops.lora_linear(x, weight, *rest), exact(x, weight, *rest))


def test_a_weight_made_under_inference_mode() -> None:
    with torch.inference_mode():
        x, weight, *rest = inputs()
        ops.lora_linear(x, weight, *rest)
        weight.mul_(2)
        assert agrees(ops.lora_linear(x, weight, *rest), exact(x, weight, *rest))


@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            made = []
            for size in ("one_row", "many_blocks", "dropout"):
                x, weight, a, b, *rest = inputs(size, dtype)
                leaves = [t.requires_grad_() for t in (x, a, b)]
                options = cases.options(cases.SIZES[size])
                y = ops.lora_linear(x, weight, a, b, *rest, **options)
                made += [y, *torch.autograd.grad(y.sum(), leaves)]
            results.append(made)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("count", [1, 5, 12, 28, 29, 70])  # few rows are computed another way
@pytest.mark.parametrize("dtype", ON_THE_CPU)
def test_rows_do_not_depend_on_the_rows_beside_them(dtype: torch.dtype, count: int) -> None:
    x, weight, *rest, _ = inputs("many_blocks", dtype)
    bias = torch.linspace(-1, 1, len(weight), dtype=dtype)
    together = ops.lora_linear(x, weight, *rest, bias)
    alone = ops.lora_linear(x[1, 40 : 40 + count], weight, *rest, bias)
    assert torch.equal(together[1, 40 : 40 + count], alone)


def test_float32_parameters_beside_a_bfloat16_layer() -> None:
    """Their gradients are float32 to the last digits: nothing in between is rounded."""
    x, weight, a, b, scale, bias = inputs("many_blocks", torch.bfloat16)
    leaves = [a.float().requires_grad_(), b.float().requires_grad_()]
    grads = torch.autograd.grad(ops.lora_linear(x, weight, *leaves, scale, bias).sum(), leaves)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = torch.autograd.grad(exact(x, weight, *wide, scale, bias).sum(), wide)
    for grad, wanted in zip(grads, want, strict=True):
        assert grad.dtype == torch.float32
        assert agrees(grad, wanted)


@pytest.mark.parametrize("asked", [(0,), (2,), (3,), (2, 3), (0, 3), (5,)])
def test_only_what_is_asked_for_gets_a_gradient(asked: tuple[int, ...]) -> None:
    args = list(inputs())
    for i in asked:
        args[i].requires_grad_()
    y = ops.lora_linear(*args)
    grads = torch.autograd.grad(y.sum(), [args[i] for i in asked])
    want = torch.autograd.grad(exact(*args).sum(), [args[i] for i in asked])
    for grad, wanted in zip(grads, want, strict=True):
        assert agrees(grad, wanted.double())


def test_without_a_gradient_of_a_x_is_not_kept() -> None:
    x, weight, a, b, scale, bias = inputs()
    y = ops.lora_linear(x, weight, a, b.requires_grad_(), scale, bias)
    saved = y.grad_fn.next_functions[0][0] if y.ndim > 2 else y.grad_fn
    assert all(t is None or t.shape != (87, 71) for t in saved.saved_tensors)


def test_compiles() -> None:
    x, weight, a, b, scale, bias = inputs()
    leaves = [x.requires_grad_(), a.requires_grad_(), b.requires_grad_()]

    def loss(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return ops.lora_linear(x * 2, weight, a, b, scale, bias).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(*leaves), leaves)
    want = torch.autograd.grad(loss(*leaves), leaves)
    assert all(torch.equal(p, q) for p, q in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("i", "bad", "error", "message"),
    [
        (0, torch.zeros(4, 7), ValueError, r"x must have shape \[..., K\] = \[4, 71\], got"),
        (2, torch.zeros(5, 7), ValueError, r"lora_a must have shape \[R, K\] = \[5, 71\], got"),
        (3, torch.zeros(131, 4), ValueError, r"lora_b must have shape \[N, R\] = \[131, 5\], got"),
        (5, torch.zeros(130), ValueError, r"bias must have shape \[N\] = \[131\], got \[130\]"),
        (1, torch.zeros(131), ValueError, r"weight must have shape \[N, K\], got \[131\]"),
        (2, torch.zeros(0, 71), ValueError, r"lora_a must have shape \[R, K\] with R >= 1, got"),
        (0, torch.zeros(4, 71).bfloat16(), TypeError, "x must have weight's dtype, torch.float32"),
        (1, torch.zeros(131, 71).requires_grad_(), ValueError, "weight must be frozen"),
        (3, torch.zeros(131, 5, device="meta"), ValueError, "lora_b must be on weight's device"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(i: int, bad: Tensor, error: type[Exception], message: str) -> None:
    args = list(inputs())
    args[i] = bad
    with pytest.raises(error, match=f"lora_linear: {message}"):
        ops.lora_linear(*args)


@pytest.mark.parametrize("dropout", [1.0, -0.1, float("nan")])
def test_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=r"lora_linear: dropout must be in \[0, 1\), got"):
        ops.lora_linear(*inputs(), dropout=dropout)


def test_a_mask_drops_its_share_and_follows_its_seed() -> None:
    masks = [kept(512, 300, 0.3, seed, torch.device("cpu")) for seed in (1, 2, 1 << 40)]
    for mask in masks:
        assert abs(mask.double().mean() - 0.7) < 0.005
        assert (mask.double().mean(0) - 0.7).abs().max() < 0.1
        assert (mask.double().mean(1) - 0.7).abs().max() < 0.13
    agreement = [(masks[0] == other).double().mean() for other in masks[1:]]
    assert all(abs(share - (0.7**2 + 0.3**2)) < 0.01 for share in agreement)


def test_dropout_is_the_update_of_a_masked_x() -> None:
    """The frozen layer sees all of x; nothing of x beyond the mask reaches the update."""
    x, weight, a, b, scale, bias = inputs()
    leaf = x.clone().requires_grad_()
    y = ops.lora_linear(leaf, weight, a, b, scale, bias, dropout=0.4, seed=3)
    dy = torch.ones_like(y)
    (dx,) = torch.autograd.grad(y, leaf, dy)
    mask = kept(87, 71, 0.4, 3, x.device).view(3, 29, 71)
    seen = (mask * x / 0.6).double()
    update = scale * seen @ a.double().T @ b.double().T
    assert agrees(y, x.double() @ weight.double().T + bias.double() + update)
    through = scale / 0.6 * mask * (dy.double() @ b.double() @ a.double())
    assert agrees(dx, dy.double() @ weight.double() + through)


def test_dropout_compiles() -> None:
    x, weight, a, b, scale, bias = inputs()

    def both(x: Tensor) -> Tensor:
        return ops.lora_linear(x * 2, weight, a, b, scale, bias, dropout=0.5, seed=9)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), both(x))
