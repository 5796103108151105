"""`varlen_attention`: causal attention over sequences laid end to end, grouped heads, no mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.kernels.common.launcher import DTYPES
from crucible_kitchen.kernels.varlen_attention.builds import not_built
from crucible_kitchen.kernels.varlen_attention.variant import Forward, Gradients, Segments, Variant
from crucible_kitchen.ops._library import lowered, refuse_transforms, register
from crucible_kitchen.ops._refusals import cpu_refuses
from crucible_kitchen.ops._table import Kernel, Op
from crucible_kitchen.ops._triton import triton_kernels


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    *,
    parents: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Every token attends to itself and to those before it in its own sequence.

    Nothing is padded, key-value heads are not copied, and memory grows with the tokens alone.
    Sequences that begin with the same tokens may share them: a segment that continues another one
    sees that one too, and all that it continues in its turn.

    Args:
        q: queries, [T, A, D] with A heads, float32, bfloat16 or float16; differentiable.
        k: keys, [T, G, D] with G heads that divide A; heads [i A / G, (i + 1) A / G) of q attend
            to head i. In q's dtype; differentiable.
        v: values, likewise.
        cu_seqlens: where each segment begins among the T tokens, then T; int32 or int64
            [segments + 1]. On the CPU no kernel has to wait for it.
        parents: the earlier segment that each continues, or -1; int32 or int64 [segments]. None
            where none continues another.
        scale: of the scores; ``1 / sqrt(D)`` if None.
        window: how many tokens back a query sees, itself included; all if None.

    Returns:
        The heads' outputs, [T, A, D] in q's dtype; float32 inside, rounded once.

    Raises:
        ValueError: shapes or devices that do not fit, bounds that do not rise from 0 to T, a
            parent that is not an earlier segment.
        TypeError: dtypes that do not fit.
        KernelError: no kernel takes the device or the dtype.

    Source: Dao 2023, algorithms 1 and 2, https://arxiv.org/abs/2307.08691
    """
    refuse_transforms("varlen_attention")
    q, k, v = lowered(q, k, v)
    _check_heads(q, k, v)
    _check_ints("cu_seqlens", cu_seqlens)
    if parents is not None:
        _check_ints("parents", parents)
        if len(parents) != len(cu_seqlens) - 1:
            raise ValueError(
                f"varlen_attention: parents must have shape [segments] = [{len(cu_seqlens) - 1}], "
                f"got {list(parents.shape)}"
            )
    if window is not None and window < 1:
        raise ValueError(f"varlen_attention: window must be at least 1, got {window}")
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _varlen_attention(q, k, v, cu_seqlens, parents, factor, window or 0)[0]
    return out


def _check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.ndim != 3 or 0 in q.shape[1:]:
        raise ValueError(f"varlen_attention: q must have shape [T, A, D], got {list(q.shape)}")
    if not q.dtype.is_floating_point:
        raise TypeError(f"varlen_attention: q must be floating point, got {q.dtype}")
    T, A, D = q.shape
    if k.ndim != 3 or k.shape[::2] != (T, D) or k.shape[1] == 0 or A % k.shape[1]:
        raise ValueError(
            f"varlen_attention: k must have shape [T, G, D] with T = {T}, G a divisor of {A} and "
            f"D = {D}, got {list(k.shape)}"
        )
    if v.shape != k.shape:
        raise ValueError(
            f"varlen_attention: v must have k's shape, {list(k.shape)}, got {list(v.shape)}"
        )
    for name, tensor in (("k", k), ("v", v)):
        if tensor.dtype != q.dtype:
            raise TypeError(
                f"varlen_attention: {name} must have q's dtype, {q.dtype}, got {tensor.dtype}"
            )
        if tensor.device != q.device:
            raise ValueError(
                f"varlen_attention: {name} must be on q's device, {q.device}, got {tensor.device}"
            )


def _check_ints(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 1 or (name == "cu_seqlens" and len(tensor) == 0):
        raise ValueError(
            f"varlen_attention: {name} must have one dimension and no fewer elements than "
            f"segments, got {list(tensor.shape)}"
        )
    if tensor.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"varlen_attention: {name} must be torch.int32 or torch.int64, got {tensor.dtype}"
        )


def _segments_of(cu_seqlens: Tensor, parents: Tensor | None, T: int) -> Segments:
    """The segments on the CPU, checked: what they say decides where a kernel reads."""
    bounds = cu_seqlens.to("cpu", torch.int64).contiguous()
    if bounds[0] != 0 or bounds[-1] != T or bool((bounds.diff() < 0).any()):
        raise ValueError(
            f"varlen_attention: cu_seqlens must rise from 0 to T = {T}, got {bounds.tolist()}"
        )
    if parents is None:
        return Segments(bounds, None)
    parents = parents.to("cpu", torch.int64).contiguous()
    wrong = (parents < -1) | (parents >= torch.arange(len(parents)))
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"varlen_attention: parents[{i}] must be an earlier segment or -1, "
            f"got {int(parents[i])}"
        )
    return Segments(bounds, parents)


# A choice looks at the dtype and the device only: q's place may hold the output's gradient.
def _cpu_refuses(q: Tensor, *others: Any, **options: Any) -> str | None:
    if q.dtype not in (torch.float32, torch.bfloat16):
        return f"q is {q.dtype}; it takes float32 and bfloat16"
    return cpu_refuses(q)


def _triton_refuses(q: Tensor, *others: Any, **options: Any) -> str | None:
    if q.shape[-1] > 256:
        return f"a head has {q.shape[-1]} elements; it takes 256 at the most"
    return None


def _built_refuses(q: Tensor, *others: Any, **options: Any) -> str | None:
    reason: str | None = not_built(DTYPES[q.dtype], q.shape[-1])
    return reason


def _cpu_forward(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, window: int
) -> Forward:
    q, k, v = (t.contiguous() for t in (q, k, v))
    made = Forward(torch.empty_like(q), torch.empty(*q.shape[:2]))
    threads = torch.get_num_threads()
    _C.varlen_attention_forward(q, k, v, *segments, scale, window, *made, threads)
    return made


def _cpu_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    scale: float,
    window: int,
) -> Gradients:
    dense = [t.contiguous() for t in (dout, q, k, v, out, lse)]
    made = Gradients(*map(torch.empty_like, dense[1:4]))
    threads = torch.get_num_threads()
    _C.varlen_attention_backward(*dense, *segments, scale, window, *made, threads)
    return made


_cpu = Variant(_cpu_forward, _cpu_backward)
_KERNELS = "crucible_kitchen.kernels.varlen_attention"

VARLEN_ATTENTION = Op(
    "varlen_attention",
    kernels=(
        *triton_kernels("varlen_attention", _built_refuses, _triton_refuses),
        Kernel("cpu", f"{__name__}:_cpu", _cpu_refuses),
        Kernel(
            "reference",
            f"{_KERNELS}.reference:varlen_attention",
            lambda *args, **options: None,
        ),
    ),
)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    parents: Tensor | None,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor]:
    kernel: Any = VARLEN_ATTENTION.choose(q)  # a Variant
    segments = _segments_of(cu_seqlens, parents, len(q))
    made: Forward = kernel.forward(q, k, v, segments, scale, window)
    return made


def _fake(q: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=wide)


def _run_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    parents: Tensor | None,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel: Any = VARLEN_ATTENTION.choose(q)  # a Variant
    segments = _segments_of(cu_seqlens, parents, len(q))
    made: Gradients = kernel.backward(dout, q, k, v, out, lse, segments, scale, window)
    return made


def _fake_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (q, k, v))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens, parents, ctx.scale, ctx.window = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, cu_seqlens, parents)


def _backward(ctx: Any, dout: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    made = _varlen_attention_backward(dout, *saved, ctx.scale, ctx.window)
    return (*made, None, None, None, None)


_varlen_attention = register(
    "varlen_attention(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, Tensor? parents, "
    "float scale, int window) -> (Tensor out, Tensor lse)",
    _run,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)

_varlen_attention_backward = register(
    "varlen_attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "Tensor cu_seqlens, Tensor? parents, float scale, int window) "
    "-> (Tensor dq, Tensor dk, Tensor dv)",
    _run_backward,
    _fake_backward,
)
