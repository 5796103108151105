"""Where all ops are registered with torch, as ``torch.ops.crucible_kitchen.NAME``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from crucible_kitchen._C import only_of
from crucible_kitchen.errors import KernelError
from crucible_kitchen.ops._autograd import differentiable
from crucible_kitchen.ops._table import takes_processors

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
    backward_again: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register an op and return what calls it.

    A call goes to `run` without torch's dispatcher, whose two crossings take longer than a small
    kernel does, wherever nobody would see it there: see `_unseen`.

    Args:
        schema: such as ``grad_norm(Tensor[] grads) -> Tensor``.
        run: computes it, on any device: choosing a kernel is the table's task, not torch's.
        fake: gives outputs of the right shape, dtype and device without computing.
        setup_context: saves for backward, as `torch.library.register_autograd` takes it.
        backward: likewise; without it the op cannot be differentiated.
        backward_again: takes its place where the gradient is to be differentiated in its turn;
            without it that is refused.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"crucible_kitchen::{name}", fake, lib=_LIBRARY)
    op: Any = getattr(torch.ops.crucible_kitchen, name).default
    compute: Callable[..., Any] = _only
    if backward is not None and setup_context is not None:
        compute = differentiable(op._schema, setup_context, _once(name, backward, backward_again))

        def below_autograd(keys: Any, *args: Any) -> Any:
            def redispatch(*args: Any) -> Any:
                with _C._AutoDispatchBelowAutograd():
                    return op.redispatch(keys & _C._after_autograd_keyset, *args)

            return compute(redispatch, args)

        _LIBRARY.impl(name, below_autograd, "Autograd", with_keyset=True)

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not _unseen(args):
            return op(*args)
        return compute(run, args)

    return call


def _only(run: Callable[..., Any], args: Sequence[Any]) -> Any:
    return run(*args)


_PLAIN = frozenset({Tensor, torch.nn.Parameter, type(None), bool, int, float})


def _unseen(args: tuple[Any, ...]) -> bool:
    """Whether torch's dispatcher would do nothing but hand plain tensors on to the kernel.

    It has more to do for subclasses of `Tensor`, inside modes and transforms, and while somebody
    traces or profiles.
    """
    return (
        only_of(args, _PLAIN)
        and not _C._len_torch_dispatch_stack()
        and not _C._len_torch_function_stack()
        and get_interpreter_stack() is None
        and _C._get_tracing_state() is None
        and not _C._autograd._profiler_enabled()
    )


def direct(*args: Any) -> bool:
    """Whether a call is its kernel and nothing else, if that is the compiled one for processors.

    No gradient is wanted, and nothing is around the call that would see it, change it or refuse it.
    Most of what a small call takes is finding this out in parts.
    """
    return (
        not torch.compiler.is_compiling()
        and _unseen(args)
        and forward_ad._current_level < 0
        and not _C._is_any_autocast_enabled()
        and not (torch.is_grad_enabled() and _C._any_requires_grad(*args))
        and takes_processors()
    )


def _once(
    op: str, backward: Callable[..., Any], again: Callable[..., Any] | None
) -> Callable[..., Any]:
    """The backward; the other one, or a refusal, where it is to be differentiated in its turn.

    torch would go on with the parts that it can differentiate, and be wrong in silence.
    """

    def checked(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            if again is not None:
                return again(ctx, *grads)
            raise not_again(op)
        return backward(ctx, *grads)

    return checked


def not_again(op: str) -> KernelError:
    """What to raise where an op's gradient is to be differentiated."""
    return KernelError(
        f"{op}: create_graph must be False, got True; its gradient cannot be differentiated again, "
        "so use plain torch in its place"
    )


def refuse_transforms(op: str, *, takes_lists: bool = False) -> None:
    """Refuse the transforms of `torch.func` that an op does not follow.

    Args:
        takes_lists: of tensors, over which torch cannot map an op; `vmap` works for the others.

    Raises:
        KernelError: inside `torch.func.grad`, `jvp` or `functionalize`, or under forward-mode
            differentiation, which would go on with a tangent of zero.
    """
    if torch.compiler.is_compiling():
        return
    around = get_interpreter_stack()
    if around and takes_lists and all(i.key() == TransformType.Vmap for i in around):
        raise KernelError(
            f"{op}: torch.func.vmap is not supported, since it takes lists of tensors; call it for "
            "each in a loop"
        )
    unknown = around is not None and any(i.key() != TransformType.Vmap for i in around)
    if unknown or forward_ad._current_level >= 0:
        raise KernelError(
            f"{op}: torch.func.grad, jvp and forward-mode differentiation are not supported; use "
            "torch.autograd.grad or .backward(), or plain torch in its place"
        )


def transformed() -> bool:
    """Whether `torch.func` or forward-mode differentiation is around, or `torch.compile` traces."""
    return (
        torch.compiler.is_compiling()
        or get_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in autocast's dtype where autocast is on, as it does with a linear's."""
    if not _C._is_any_autocast_enabled():
        return tensors
    kind = tensors[0].device.type
    # The meta device, which computes shapes alone, has no autocast to ask for.
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    casts = (torch.float16, torch.bfloat16, torch.float32)
    return tuple(t.to(dtype) if t.dtype in casts else t for t in tensors)
