"""What the conformance test cannot see of lora_linear_many: bits, lists, torch's machinery."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.lora_linear_many import cases


def inputs(size: str = "many", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return cases.inputs(cases.SIZES[size], dtype, "cpu")


def leaves_of(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_update_gets_the_bits_it_gets_alone(dtype: torch.dtype, dropout: float) -> None:
    x, weights, lora_a, lora_b, scales, rows, _ = inputs(dtype=dtype)
    seeds = list(range(len(rows)))
    leaf, *params = leaves_of(x, *lora_a, *lora_b)
    y = ops.lora_linear_many(
        leaf, weights, params[: len(rows)], params[len(rows) :], scales, rows, dropout=dropout,
        seeds=seeds,
    )[0]  # fmt: skip
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    dx, *grads = torch.autograd.grad(y, [leaf, *params], dy)
    for i, (first, end) in enumerate(cases.offsets(rows)):
        own = leaves_of(x[first:end], lora_a[i], lora_b[i])
        alone = ops.lora_linear(
            own[0], weights[0], own[1], own[2], scales[i], dropout=dropout, seed=seeds[i]
        )
        assert torch.equal(y[first:end], alone)
        together = (dx[first:end], grads[i], grads[len(rows) + i])
        for got, want in zip(together, torch.autograd.grad(alone, own, dy[first:end]), strict=True):
            assert torch.equal(got, want), i


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stacked_or_apart_the_bits_are_the_same(dtype: torch.dtype) -> None:
    x, weights, stacks_a, stacks_b, *rest = inputs("stacked", dtype)
    results = []
    for stacked in (True, False):
        leaf, *params = leaves_of(x, *stacks_a, *stacks_b)
        given = [list(params[:2]), list(params[2:])]
        if not stacked:
            given = [[m for stack in stacks for m in stack.unbind()] for stacks in given]
        ys = ops.lora_linear_many(leaf, weights, *given, *rest)
        ones = [torch.ones_like(y) for y in ys]
        results.append([*ys, *torch.autograd.grad(ys, [leaf, *params], ones)])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_long_sums_of_updates_of_few_rows_lose_few_digits() -> None:
    """Uncut, the sums of x A^T and dy B over 576 would lose twice as many."""
    size = cases.Size((4,) * 8, (576,), 576, 16)
    x, weights, lora_a, lora_b, *rest = cases.inputs(size, torch.float32, "cpu")
    made = []
    for dtype in (torch.float32, torch.float64):
        leaf, *params = leaves_of(*(t.to(dtype) for t in (x, *lora_a, *lora_b)))
        wide = [weight.to(dtype) for weight in weights]
        ys = ops.lora_linear_many(leaf, wide, params[:8], params[8:], *rest)
        made.append(torch.autograd.grad(ys, params, [torch.ones_like(y) for y in ys]))
    for got, want in zip(*made, strict=True):
        assert (got - want).norm() <= 4.5e-7 * want.norm()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            x, weights, lora_a, lora_b, *rest = inputs("both")
            leaf, *params = leaves_of(x, *lora_a, *lora_b)
            ys = ops.lora_linear_many(leaf, weights, params[:6], params[6:], *rest)
            ones = [torch.ones_like(y) for y in ys]
            results.append([*ys, *torch.autograd.grad(ys, [leaf, *params], ones)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_layers_of_a_group_with_leading_dimensions_and_one_unused() -> None:
    x, weights, lora_a, lora_b, scales, _, biases = inputs("odd")
    leaf = x[:36].view(3, 12, 71).detach().requires_grad_()
    bias = biases[1].detach().requires_grad_()
    given = [biases[0], bias, biases[2]]
    ys = ops.lora_linear_many(leaf, weights, lora_a, lora_b, scales, biases=given)
    assert [list(y.shape) for y in ys] == [[3, 12, 48], [3, 12, 17], [3, 12, 17]]
    dx, dbias = torch.autograd.grad(ys[1].sum(), [leaf, bias])
    alone = ops.lora_linear(leaf, weights[1], lora_a[1], lora_b[1], scales[1], bias)
    assert torch.equal(ys[1], alone)
    want, _ = torch.autograd.grad(alone.sum(), [leaf, bias])
    assert (dx - want).norm() <= 1e-6 * want.norm()
    assert torch.equal(dbias, torch.full_like(bias, 36.0))


def test_compiles() -> None:
    x, weights, lora_a, lora_b, *rest = inputs("odd")
    leaf, *params = leaves_of(x, *lora_a, *lora_b)

    def loss(x: Tensor, *params: Tensor) -> Tensor:
        ys = ops.lora_linear_many(x * 2, weights, params[:3], params[3:], *rest)
        return torch.stack([y.square().sum() for y in ys]).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(leaf, *params), [leaf, *params])
    want = torch.autograd.grad(loss(leaf, *params), [leaf, *params])
    assert all(torch.equal(p, q) for p, q in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("i", "bad", "error", "message"),
    [
        (1, [], ValueError, "weights must have at least one, got none"),
        (2, [], ValueError, r"lora_a must have 7 \(1 layers x 7 rows\), got 0"),
        (4, [1.0], ValueError, r"scales must have 7 .*, got 1"),
        (2, [torch.zeros(7, 9, 129)] * 2, ValueError, r"lora_a must have 1 \(1 layers\), got 2"),
        (2, [torch.zeros(6, 9, 129)], ValueError, r"lora_b must have 1 \(1 layers\), got 7"),
        (5, [362], ValueError, "lora_a must have 1 .*, got 7"),
        (5, [1, 2], ValueError, r"rows must be counts that sum to 362, x's rows, got \[1, 2\]"),
        (5, [-1, 363], ValueError, "rows must be counts that sum to 362"),
        (6, [], ValueError, r"biases must have 1 \(1 layers\), got 0"),
        (0, torch.zeros(362, 7), ValueError, r"x must have shape \[..., K\] = \[362, 129\]"),
        (1, [torch.zeros(83, 129).requires_grad_()], ValueError, "weight must be frozen"),
        (1, [torch.zeros(83, 129).bfloat16()], TypeError, "x must have weight's dtype"),
    ],
)
def test_bad_arguments_are_named(i: int, bad: Any, error: type[Exception], message: str) -> None:
    args = list(inputs())
    args[i] = bad
    with pytest.raises(error, match=f"lora_linear_many: {message}"):
        ops.lora_linear_many(*args)


@pytest.mark.parametrize(
    ("i", "bad", "message"),
    [
        (2, torch.zeros(2, 6, 33), r"lora_a must have shape \[updates, ., .\] = \[3, ., .\]"),
        (3, torch.zeros(40, 6), r"lora_b must have shape \[updates, ., .\] = \[3, ., .\]"),
        (2, torch.zeros(3, 6, 32), r"lora_a must have shape \[R, K\] = \[6, 33\], got \[6, 32\]"),
        (3, torch.zeros(3, 40, 5), r"lora_b must have shape \[N, R\] = \[40, 6\], got \[40, 5\]"),
    ],
)
def test_bad_stacks_are_named(i: int, bad: Tensor, message: str) -> None:
    args = list(inputs("stacked"))
    args[i] = [bad, args[i][1]]
    with pytest.raises(ValueError, match=f"lora_linear_many: {message}"):
        ops.lora_linear_many(*args)
