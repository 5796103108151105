"""Outputs of cheap ops that a backward pass computes again, where torch would keep them for it.

A norm's output and a gated MLP's are read once more in the backward pass, by the linears behind
them, for the gradient of A. Their inputs are kept in any case, and one pass over these gives the
same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor


class _Again:
    """An output that is not kept: how to compute it again, once for all who want it back.

    Args:
        output: as the op gives it.
        compute: gives it again, of the same bits.
        args: what `compute` takes.
    """

    def __init__(self, output: Tensor, compute: Callable[..., Tensor], args: tuple[Any, ...]):
        self._output, self._output_version = weakref.ref(output), output._version
        self._compute = compute
        self._args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        self._versions = self._counted()
        self._waiting = 0
        self._computed: Tensor | None = None

    def gives(self, tensor: Tensor) -> bool:
        """Whether it is what a tensor at the output's address holds.

        While the output is alive no other tensor can be there.
        """
        output = self._output()
        return (
            output is not None
            and output._version == self._output_version
            and output.numel() == tensor.numel()
            and output.dtype == tensor.dtype
            and tensor.is_contiguous()
        )

    def put_off(self) -> None:
        """Somebody will ask for it later."""
        self._waiting += 1

    def get(self) -> Tensor:
        """The output; kept from the first who asks to the last."""
        if self._computed is None:
            if self._counted() != self._versions:
                raise RuntimeError(
                    "recomputing: an input of rms_norm or swiglu must stay as it is until the "
                    "backward pass, got one that was changed in place"
                )
            self._computed = self._compute(*self._args)
        made = self._computed
        self._waiting -= 1
        if self._waiting <= 0:
            self._computed = None
        return made

    def _counted(self) -> list[int]:
        return [a._version for a in self._args if isinstance(a, Tensor)]


# By the address of each output.
_Noted = dict[int, _Again]
_NOTED: ContextVar[_Noted | None] = ContextVar("noted", default=None)


@contextmanager
def recomputing() -> Iterator[None]:
    """Within it, a graph that is built keeps no output of `rms_norm` or `swiglu` for its backward.

    Gradients are the same bits. It must not be put around gradient checkpointing, which keeps less.
    """
    noted: _Noted = {}
    token = _NOTED.set(noted)
    try:
        with torch.autograd.graph.saved_tensors_hooks(partial(_keep, noted), _kept):
            yield
    finally:
        _NOTED.reset(token)
        noted.clear()


def note(output: Tensor, compute: Callable[..., Tensor], *args: Any) -> None:
    """Inside `recomputing`, note how an output can be computed again."""
    if torch.compiler.is_compiling():
        return
    noted = _NOTED.get()
    if noted is not None and output.requires_grad and output.numel():
        noted[output.data_ptr()] = _Again(output, compute, args)


def _keep(noted: _Noted, tensor: Tensor) -> Any:
    again = noted.get(tensor.data_ptr()) if tensor.numel() else None
    if again is not None and again.gives(tensor):
        again.put_off()
        return again, tensor.shape
    # One that the graph has made must not be held by it: that would be a cycle. Others stay the
    # objects that they are, by which packed weights are known.
    return tensor if tensor.grad_fn is None else (tensor.detach(), tensor._version)


def _kept(what: Any) -> Tensor:
    if isinstance(what, Tensor):
        return what
    one, other = what
    if isinstance(one, _Again):
        return one.get().view(other)
    kept: Tensor = one
    if kept._version != other:
        raise RuntimeError(
            "recomputing: a tensor that the backward pass needs must stay as it is, got one of "
            f"shape {list(kept.shape)} that was changed in place"
        )
    return kept
