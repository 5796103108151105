"""`lora_linear_many`: layers that share x, and rows that have updates of their own, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.lora_linear.variant import NO_DROP, Drop
from crucible_kitchen.kernels.lora_linear_many.variant import Forward, Gradients, Updates, Wanted
from crucible_kitchen.ops._library import lowered, refuse_transforms, register
from crucible_kitchen.ops._lora_linear_checks import check_dropout, check_lora_linear
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels
from crucible_kitchen.ops.lora_linear import refuse_built, refuse_cpu

_NAME = "lora_linear_many"


def lora_linear_many(
    x: Tensor,
    weights: Sequence[Tensor],
    lora_a: Sequence[Tensor],
    lora_b: Sequence[Tensor],
    scales: Sequence[float],
    rows: Sequence[int] | None = None,
    biases: Sequence[Tensor] | None = None,
    *,
    dropout: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[Tensor]:
    """`lora_linear` for layers that read the same x, and for rows with updates of their own.

    Differentiable in x and in every A, B and bias. What an update makes of its rows, gradients
    included, is bit for bit what it makes of them alone (by the CPU kernel).

    Args:
        x: activations, [M, K]; [..., K] where `rows` is not given.
        weights: the frozen weight of each layer, [N, K] with an N of its own, in x's dtype.
        lora_a: A of each update, [R, K] with an R of its own: all those of the first layer, in the
            order of `rows`, then those of the next. Or for each layer one tensor of all,
            [updates, R, K]: torch's graph takes a microsecond and more for each tensor, both ways.
        lora_b: B of each, [N, R], or of each layer, [updates, N, R], likewise.
        scales: alpha / rank of each update, in the order of a list of all A.
        rows: how many rows of x each update of a layer is for, in order; by default one for all.
        biases: of each layer, [N], or None for no layer.
        dropout: share of x that the updates do not see, in [0, 1); see `lora_linear`.
        seeds: of the masks, one an update; an update's mask counts rows from its own first.

    Returns:
        y of each layer, [M, N] (or [..., N]), in x's dtype.

    Raises:
        ValueError: lists, shapes or devices that do not fit, a weight that requires a gradient, or
            dropout out of range.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: Hu et al. 2021, eq. 3, https://arxiv.org/abs/2106.09685; many in one batch: Chen et al.
        2023, "Punica", https://arxiv.org/abs/2310.18547
    """
    refuse_transforms(_NAME, takes_lists=True)
    x, *weights = lowered(x, *weights)
    flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    rows = [flat.shape[0]] if rows is None else list(rows)
    seeds = [0] * len(weights) * len(rows) if seeds is None else list(seeds)
    _check_lists(x, weights, lora_a, lora_b, scales, rows, biases, seeds)
    check_dropout(_NAME, dropout)
    each = len(lora_a) // len(weights)
    for layer, weight in enumerate(weights):
        mine = slice(layer * each, (layer + 1) * each)
        bias = None if biases is None else biases[layer]
        for a, b in _distinct(lora_a[mine], lora_b[mine], len(rows)):
            check_lora_linear(_NAME, x, weight, a, b, bias)
    scaled = [scale / (1 - dropout) for scale in scales]
    ys: list[Tensor] = _many(
        flat, weights, list(biases or ()), list(lora_a), list(lora_b), scaled, rows, dropout, seeds
    )[0]
    return ys if x.ndim == 2 else [y.view(*x.shape[:-1], y.shape[-1]) for y in ys]


def _distinct(
    lora_a: Sequence[Tensor], lora_b: Sequence[Tensor], updates: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """An A and a B of each kind in a layer: those that are alike fit or do not fit together."""
    kinds = {
        (a.shape, b.shape, a.dtype, b.dtype, a.device, b.device): (a, b)
        for a, b in zip(lora_a, lora_b, strict=True)
    }
    if lora_a[0].ndim != 3:
        return kinds.values()
    for name, (stack,) in (("lora_a", lora_a), ("lora_b", lora_b)):
        if stack.ndim != 3 or stack.shape[0] != updates:
            raise ValueError(
                f"{_NAME}: {name} must have shape [updates, ., .] = [{updates}, ., .] where a "
                f"tensor has all of a layer, got {list(stack.shape)}"
            )
    return [(lora_a[0][0], lora_b[0][0])]


def _check_lists(
    x: Tensor,
    weights: Sequence[Tensor],
    lora_a: Sequence[Tensor],
    lora_b: Sequence[Tensor],
    scales: Sequence[float],
    rows: Sequence[int],
    biases: Sequence[Tensor] | None,
    seeds: Sequence[int],
) -> None:
    M = x.numel() // max(1, x.shape[-1]) if x.ndim != 2 else x.shape[0]
    if not weights:
        raise ValueError(f"{_NAME}: weights must have at least one, got none")
    if not rows or min(rows) < 0 or sum(rows) != M:
        raise ValueError(f"{_NAME}: rows must be counts that sum to {M}, x's rows, got {rows}")
    updates = len(weights) * len(rows)
    stacks = len(lora_a) > 0 and lora_a[0].ndim == 3
    matrices = len(weights) if stacks else updates
    wanted: list[tuple[str, Sequence[Any] | None, int]] = [
        ("lora_a", lora_a, matrices),
        ("lora_b", lora_b, matrices),
        ("scales", scales, updates),
        ("seeds", seeds, updates),
        ("biases", biases, len(weights)),
    ]
    for name, given, count in wanted:
        if given is not None and len(given) != count:
            what = f"{len(weights)} layers" + (f" x {len(rows)} rows" if count == updates else "")
            raise ValueError(f"{_NAME}: {name} must have {count} ({what}), got {len(given)}")


def _refuse_built(
    x: Tensor, weights: Sequence[Tensor] = (), lora_a: Sequence[Tensor] = (), *_: Any, **__: Any
) -> str | None:
    """Why no cubin of this build can compute one of the updates, or None."""
    each = len(lora_a) // max(1, len(weights))
    reasons = (
        refuse_built(x, weights[i // each], a[0] if a.ndim == 3 else a)
        for i, a in enumerate(lora_a)
    )
    return next(filter(None, reasons), None)


LORA_LINEAR_MANY = Op(
    _NAME,
    kernels=(
        *triton_kernels(_NAME, _refuse_built),
        Kernel("cpu", "crucible_kitchen.ops._lora_linear_many_cpu:lora_linear_many", refuse_cpu),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.lora_linear_many.reference:lora_linear_many",
            lambda *args, **options: None,
        ),
    ),
)


def _updates(
    lora_a: list[Tensor],
    lora_b: list[Tensor],
    scales: list[float],
    rows: list[int],
    dropout: float,
    seeds: list[int],
) -> Updates:
    drops = [Drop(dropout, seed) for seed in seeds] if dropout > 0 else [NO_DROP] * len(seeds)
    return Updates(lora_a, lora_b, scales, rows, drops)


def _run(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    lora_a: list[Tensor],
    lora_b: list[Tensor],
    scales: list[float],
    rows: list[int],
    dropout: float,
    seeds: list[int],
) -> Forward:
    kernel: Any = LORA_LINEAR_MANY.choose(x, weights, lora_a)
    updates = _updates(lora_a, lora_b, scales, rows, dropout, seeds)
    updates = updates if kernel.takes_stacks else updates.apart()
    made: Forward = kernel.forward(x, weights, biases, updates)
    return made


def _fake(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], lora_a: list[Tensor], *rest: Any
) -> tuple[list[Tensor], Tensor]:
    lora_b, scales, rows, *_ = rest
    numel = sum(Updates(lora_a, lora_b, scales, rows, []).xa_numels())
    return (
        [x.new_empty((x.shape[0], weight.shape[0])) for weight in weights],
        x.new_empty(numel, dtype=torch.promote_types(x.dtype, torch.float32)),
    )


def _run_backward(
    dys: list[Tensor],
    x: Tensor | None,
    weights: list[Tensor],
    lora_a: list[Tensor],
    lora_b: list[Tensor],
    scales: list[float],
    rows: list[int],
    xa: Tensor,
    wanted: Sequence[bool],
    dropout: float,
    seeds: list[int],
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    kernel: Any = LORA_LINEAR_MANY.choose(dys[0], weights, lora_a)
    updates = _updates(lora_a, lora_b, scales, rows, dropout, seeds)
    apart = updates if kernel.takes_stacks else updates.apart()
    made: Gradients = kernel.backward(dys, x, weights, apart, xa, Wanted(*wanted))
    if apart is not updates:
        made = made.stacked(len(rows))
    return dys[0].new_empty(0) if made.x is None else made.x, made.lora_a, made.lora_b


def _fake_backward(
    dys: list[Tensor],
    x: Tensor | None,
    weights: list[Tensor],
    lora_a: list[Tensor],
    lora_b: list[Tensor],
    scales: list[float],
    rows: list[int],
    xa: Tensor,
    wanted: Sequence[bool],
    *rest: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    first = dys[0]
    return (
        first.new_empty((first.shape[0], weights[0].shape[1]) if wanted[0] else 0),
        [a.new_empty(a.shape) for a in lora_a] if wanted[1] else [],
        [b.new_empty(b.shape) for b in lora_b] if wanted[2] else [],
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor]) -> None:
    x, weights, biases, lora_a, lora_b, ctx.scales, ctx.rows, ctx.dropout, ctx.seeds = inputs
    ctx.counts = len(weights), len(lora_a)
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ys, xa = output
    ctx.mark_non_differentiable(xa)
    ctx.shapes = [y.shape for y in ys]
    # x is kept alive for the gradients of A alone.
    kept = x if any(a.requires_grad for a in lora_a) else None
    ctx.save_for_backward(kept, *weights, *lora_a, *lora_b, xa)


def _backward(ctx: Any, dys: list[Tensor | None], _: Any) -> tuple[Any, ...]:
    x, *saved = ctx.saved_tensors
    layers, updates = ctx.counts
    weights, xa = saved[:layers], saved[-1]
    lora_a, lora_b = (saved[layers + i * updates :][:updates] for i in range(2))
    needs = ctx.needs_input_grad
    wanted = (needs[0], any(needs[3]), any(needs[4]))
    given = [
        weights[0].new_zeros(shape) if dy is None else dy
        for dy, shape in zip(dys, ctx.shapes, strict=True)
    ]
    dx, das, dbs = None, [None] * updates, [None] * updates
    if any(wanted):
        dx, made_a, made_b = _many_backward(
            given, x, weights, lora_a, lora_b, ctx.scales, ctx.rows, xa, wanted, ctx.dropout,
            ctx.seeds,
        )  # fmt: skip
        dx = dx if wanted[0] else None
        das, dbs = made_a or das, made_b or dbs
    biases = [
        dy.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(dtype) if need else None
        for dy, dtype, need in zip(given, ctx.bias_dtypes, needs[2], strict=False)
    ]
    return dx, [None] * layers, biases, das, dbs, None, None, None, None


_many = register(
    "lora_linear_many(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] lora_a, "
    "Tensor[] lora_b, float[] scales, int[] rows, float dropout, int[] seeds) "
    "-> (Tensor[] ys, Tensor xa)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_many_backward = register(
    "lora_linear_many_backward(Tensor[] dys, Tensor? x, Tensor[] weights, Tensor[] lora_a, "
    "Tensor[] lora_b, float[] scales, int[] rows, Tensor xa, bool[] wanted, float dropout, "
    "int[] seeds) -> (Tensor dx, Tensor[] das, Tensor[] dbs)",
    _run_backward,
    _fake_backward,
)
