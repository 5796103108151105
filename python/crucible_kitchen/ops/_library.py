"""Where all ops are registered with torch, as ``torch.ops.crucible_kitchen.NAME``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from crucible_kitchen.errors import KernelError

# Any: torch does not annotate these.
_C: Any = torch._C
_LIBRARY: Any = torch.library.Library("crucible_kitchen", "DEF")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register an op and return it. `Library.define` calls cost half of what `custom_op` calls do.

    Args:
        schema: such as ``grad_norm(Tensor[] grads) -> Tensor``.
        run: computes it, on any device: choosing a kernel is the table's task, not torch's.
        fake: gives outputs of the right shape, dtype and device without computing.
        setup_context: saves for backward, as `torch.library.register_autograd` takes it.
        backward: likewise; without it the op cannot be differentiated.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    qualified = f"crucible_kitchen::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    op: Any = getattr(torch.ops.crucible_kitchen, name).default
    if backward is None or setup_context is None:
        return op  # type: ignore[no-any-return]
    backward = _once(name, backward)
    if "Tensor[]" in schema:
        torch.library.register_autograd(
            qualified, backward, setup_context=setup_context, lib=_LIBRARY
        )
    else:
        differentiable = _differentiable(op, setup_context, backward)
        _LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    return op  # type: ignore[no-any-return]


def _differentiable(
    op: Any, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """What `torch.library.register_autograd` registers, for an op without lists and defaults.

    Torch's own looks for lists and keyword arguments in every call, which takes longer than all
    else that a small call does.
    """

    class Call(torch.autograd.Function):
        # The keys of the call come last, so that a place in the schema is a place here.
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *inputs, keys = args
            with _C._AutoDispatchBelowAutograd():
                output = op.redispatch(keys & _C._after_autograd_keyset, *inputs)
            setup_context(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return (*backward(ctx, *grads), None)

    def call(keys: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and _C._any_requires_grad(*args):
            return Call.apply(*args, keys)  # type: ignore[no-untyped-call]
        with _C._AutoDispatchBelowAutograd():
            return op.redispatch(keys & _C._after_autograd_keyset, *args)

    return call


def _once(op: str, backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward, refused where it is to be differentiated in its turn.

    torch would go on with the parts that it can differentiate, and be wrong in silence.
    """

    def checked(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise KernelError(
                f"{op}: create_graph must be False, got True; its gradient cannot be "
                "differentiated again, so use plain torch in its place"
            )
        return backward(ctx, *grads)

    return checked


def refuse_transforms(op: str) -> None:
    """Refuse the transforms of `torch.func` that an op does not follow.

    Raises:
        KernelError: inside `torch.func.grad`, `jvp` or `functionalize`, or under forward-mode
            differentiation, which would go on with a tangent of zero. `vmap` works.
    """
    if torch.compiler.is_compiling():
        return
    around = get_interpreter_stack()
    unknown = around is not None and any(i.key() != TransformType.Vmap for i in around)
    if unknown or forward_ad._current_level >= 0:
        raise KernelError(
            f"{op}: torch.func.grad, jvp and forward-mode differentiation are not supported; use "
            "torch.autograd.grad or .backward(), or plain torch in its place"
        )


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on, as it does with a linear's."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    casts = (torch.float16, torch.bfloat16, torch.float32)
    return tuple(t.to(dtype) if t.dtype in casts else t for t in tensors)
