"""Ops as nodes of torch's graph, more cheaply than `torch.library.register_autograd` makes them.

Torch's own looks through nested lists and keyword arguments in every call, which takes longer than
all else that a small call does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Any: torch does not annotate these.
_C: Any = torch._C
Compute = Callable[[Callable[..., Any], Sequence[Any]], Any]


def differentiable(
    schema: Any, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Compute:
    """What calls an op's implementation, and makes a node where an argument needs a gradient.

    Args:
        schema: the op's; no argument may have a default.
        setup_context: as `torch.library.register_autograd` takes it.
        backward: likewise; a list of tensors has a list of gradients, or None for each.
    """
    tensors = _C.ListType.ofTensors()
    lists = [i for i, arg in enumerate(schema.arguments) if arg.type.isSubtypeOf(tensors)]
    node = (
        _node_of_lists(lists, setup_context, backward) if lists else _node(setup_context, backward)
    )

    def compute(run: Callable[..., Any], args: Sequence[Any]) -> Any:
        if torch.is_grad_enabled() and _C._any_requires_grad(*args):
            return node(run, args)
        return run(*args)

    return compute


def _node(setup_context: Callable[..., None], backward: Callable[..., Any]) -> Compute:
    class Call(torch.autograd.Function):
        # What runs comes last, so that a place in the schema is a place here.
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *inputs, run = args
            output = run(*inputs)
            setup_context(ctx, tuple(inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return (*backward(ctx, *grads), None)

    return lambda run, args: Call.apply(*args, run)  # type: ignore[no-untyped-call]


def _node_of_lists(
    lists: Sequence[int], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Compute:
    """Torch's graph knows single tensors: the lists of a call are laid out flat, and back."""

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *flat, ctx.layout, run, returned = args
            inputs = _folded(flat, ctx.layout)
            output = run(*inputs)
            setup_context(ctx, inputs, output)
            ctx.returned = _layout(output, [i for i, o in enumerate(output) if type(o) is list])
            returned += ctx.returned
            return tuple(_flat(output, ctx.returned))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            needed = ctx.needs_input_grad
            ctx.needs_input_grad = _folded(needed[:-3], ctx.layout)
            made = backward(ctx, *_folded(grads, ctx.returned))
            ctx.needs_input_grad = needed
            return (*_flat(made, ctx.layout), None, None, None)

    def node(run: Callable[..., Any], args: Sequence[Any]) -> Any:
        layout = _layout(args, lists)
        returned: Layout = []  # written by the call
        output = Call.apply(*_flat(args, layout), layout, run, returned)  # type: ignore[no-untyped-call]
        return _folded(output, returned)

    return node


# Of each place: how many items its list has, or None where it is no list.
Layout = list[int | None]


def _layout(args: Sequence[Any], lists: Sequence[int]) -> Layout:
    layout: Layout = [None] * len(args)
    for i in lists:
        layout[i] = len(args[i])
    return layout


def _flat(args: Sequence[Any], layout: Layout) -> list[Any]:
    flat: list[Any] = []
    for arg, count in zip(args, layout, strict=True):
        if count is None:
            flat.append(arg)
        else:
            flat += arg
    return flat


def _folded(flat: Sequence[Any], layout: Layout) -> tuple[Any, ...]:
    args, at = [], 0
    for count in layout:
        if count is None:
            args.append(flat[at])
            at += 1
        else:
            args.append(list(flat[at : at + count]))
            at += count
    return tuple(args)
