"""`lora_linear`: a frozen linear layer and its low-rank update, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.launcher import DTYPES, aligned
from crucible_kitchen.kernels.lora_linear.builds import not_built
from crucible_kitchen.kernels.lora_linear.variant import Drop, Gradients
from crucible_kitchen.ops._library import direct, lowered, refuse_transforms, register
from crucible_kitchen.ops._lora_linear_checks import check_dropout, check_lora_linear
from crucible_kitchen.ops._lora_linear_cpu import output_alone
from crucible_kitchen.ops._refusals import cpu_refuses
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def lora_linear(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """y = x W^T + scale (x A^T) B^T (+ bias), differentiable in x, A, B and bias, never in W.

    With dropout, A sees ``m * x / (1 - dropout)`` in place of x; W never does. The mask m is a hash
    of the seed, the row and the column: the same for every number of threads and on every backend,
    computed again in the backward pass and stored nowhere.

    Args:
        x: activations, [..., K], float32, bfloat16 or float16.
        weight: the frozen weight W, [N, K], in x's dtype. The CPU kernel keeps it packed while it
            lives, once for each direction that runs: it takes its memory twice or three times, or
            once less where it maps a file.
            Under autocast x and W are cast in each call; better keep W in the lower dtype.
        lora_a: A, [R, K], in x's dtype or float32.
        lora_b: B, [N, R], in x's dtype or float32.
        scale: alpha / rank (or alpha / sqrt(rank)), dimensionless.
        bias: [N], in x's dtype or float32.
        dropout: share of x that the update does not see, in [0, 1).
        seed: of the mask, 64 bits; take another one for each pass and each layer.

    Returns:
        y, [..., N], in x's dtype. Products accumulate in float32; gradients come in the dtypes of
        their tensors.

    Raises:
        ValueError: shapes or devices that do not fit, a weight that requires a gradient, or
            dropout out of range.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: Hu et al. 2021, eq. 3, https://arxiv.org/abs/2106.09685
    """
    if direct(x, weight, lora_a, lora_b, bias) and not weight.requires_grad and not dropout:
        alone = output_alone(x, weight, lora_a, lora_b, scale, bias)
        if alone is not None:
            return alone
    refuse_transforms("lora_linear")
    x, weight = lowered(x, weight)
    check_lora_linear("lora_linear", x, weight, lora_a, lora_b, bias)
    check_dropout("lora_linear", dropout)
    scale = scale / (1 - dropout)
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    y: Tensor = _lora_linear(rows, weight, lora_a, lora_b, scale, bias, dropout, seed)[0]
    return y if x.ndim == 2 else y.view(*x.shape[:-1], weight.shape[0])


# A choice looks at tensors only: x's place may hold dy, which has its dtype and device.
def refuse_cpu(x: Tensor, *args: Any, **options: Any) -> str | None:
    """Why the compiled kernel cannot compute it, or None."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"x is {x.dtype}; it takes float32 and bfloat16"
    return cpu_refuses(x)


def refuse_built(
    x: Tensor, weight: Tensor | None = None, lora_a: Tensor | None = None, *args: Any, **_: Any
) -> str | None:
    """Why no cubin of this build can compute it, or None."""
    if weight is None or lora_a is None:
        return None
    if not weight.is_contiguous() or not aligned(weight):
        return "weight is not contiguous and aligned to 16 bytes"
    N, K = weight.shape
    reason: str | None = not_built(DTYPES[x.dtype], K, N, lora_a.shape[0])
    return reason


LORA_LINEAR = Op(
    "lora_linear",
    kernels=(
        *triton_kernels("lora_linear", refuse_built),
        Kernel("cpu", "crucible_kitchen.ops._lora_linear_cpu:lora_linear", refuse_cpu),
        Kernel(
            "reference",
            "crucible_kitchen.kernels.lora_linear.reference:lora_linear",
            lambda *args, **options: None,
        ),
    ),
)


def _run(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    kernel: Any = LORA_LINEAR.choose(x, weight, lora_a)
    made: tuple[Tensor, Tensor] = kernel.forward(
        x, weight, lora_a, lora_b, scale, bias, Drop(dropout, seed)
    )
    return made


def _fake(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    bias: Tensor | None,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    xa_dtype = torch.promote_types(x.dtype, torch.float32)
    rows = x.shape[0]
    return (
        x.new_empty((rows, weight.shape[0])),
        x.new_empty((rows, lora_a.shape[0]), dtype=xa_dtype),
    )


def _run_backward(
    dy: Tensor,
    x: Tensor | None,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    xa: Tensor,
    wanted: Sequence[bool],
    dropout: float,
    seed: int,
) -> tuple[Tensor, ...]:
    kernel: Any = LORA_LINEAR.choose(dy, weight, lora_a)
    made: Gradients = kernel.backward(
        dy, x, weight, lora_a, lora_b, scale, xa, wanted, Drop(dropout, seed)
    )
    return tuple(dy.new_empty(0) if part is None else part for part in made)


def _fake_backward(
    dy: Tensor,
    x: Tensor | None,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
    xa: Tensor,
    wanted: Sequence[bool],
    dropout: float,
    seed: int,
) -> tuple[Tensor, ...]:
    return (
        dy.new_empty((dy.shape[0], weight.shape[1]) if wanted[0] else 0),
        lora_a.new_empty(lora_a.shape) if wanted[1] else dy.new_empty(0),
        lora_b.new_empty(lora_b.shape) if wanted[2] else dy.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, lora_a, lora_b, ctx.scale, bias, *ctx.drop = inputs
    xa = output[1]
    ctx.mark_non_differentiable(xa)
    ctx.bias_dtype = None if bias is None else bias.dtype
    # x is kept alive for the gradient of A alone.
    ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, weight, lora_a, lora_b, xa)


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, lora_a, lora_b, xa = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = (needs[0], needs[2], needs[3])
    dx = da = db = bias = None
    if any(wanted):
        made = _lora_linear_backward(
            dy, x, weight, lora_a, lora_b, ctx.scale, xa, wanted, *ctx.drop
        )
        dx, da, db = (part if want else None for part, want in zip(made, wanted, strict=True))
    if needs[5]:
        bias = dy.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(ctx.bias_dtype)
    return dx, None, da, db, None, bias, None, None


_lora_linear = register(
    "lora_linear(Tensor x, Tensor weight, Tensor lora_a, Tensor lora_b, float scale, Tensor? bias, "
    "float dropout, int seed) -> (Tensor y, Tensor xa)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_lora_linear_backward = register(
    "lora_linear_backward(Tensor dy, Tensor? x, Tensor weight, Tensor lora_a, Tensor lora_b, "
    "float scale, Tensor xa, bool[] wanted, float dropout, int seed) "
    "-> (Tensor dx, Tensor da, Tensor db)",
    _run_backward,
    _fake_backward,
)
