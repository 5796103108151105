"""The norm of all gradients of a step, computed on their devices and read there by the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from crucible_kitchen import ops


def global_norm(lists: Iterable[Sequence[Tensor]]) -> Tensor:
    """The norm of all gradients of all lists; each device and process reduces its own.

    Nothing waits: the result is a float64 scalar on the device of the first gradient (0 on the CPU
    where there is none).

    Raises:
        ValueError: a process has only its part of a sum.
    """
    alike: dict[tuple[Any, ...], list[Tensor]] = {}
    for grads in lists:
        for grad in grads:
            layout = (grad.device_mesh, grad.placements) if isinstance(grad, DTensor) else ()
            alike.setdefault((grad.device, *layout), []).append(grad)
    norms = [_norm(grads) for grads in alike.values()]
    if len(norms) == 1:
        return norms[0]
    if not norms:
        return torch.zeros((), dtype=torch.float64)
    here = norms[0].device
    return torch.stack([norm.to(here, non_blocking=True) for norm in norms]).square().sum().sqrt()


def _norm(grads: list[Tensor]) -> Tensor:
    """The norm of gradients that lie alike on devices and processes."""
    norm = ops.grad_norm(locals_of(grads))
    first = grads[0]
    if not isinstance(first, DTensor):
        return norm
    squares = norm.square()
    for dimension, placement in enumerate(first.placements):
        if placement.is_partial():
            raise ValueError("AdamW: gradients must be summed over processes, got partial sums")
        if placement.is_shard():
            torch.distributed.all_reduce(squares, group=first.device_mesh.get_group(dimension))
    return squares.sqrt()


def locals_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each: FSDP2 makes DTensors of parameters and gradients."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


class Unread:
    """A scalar on its way from its device, for the host to read when it wants it.

    The copy begins at once: one that began when it is read would come after all the work that has
    been queued meanwhile.

    Args:
        value: a scalar on any device.
    """

    def __init__(self, value: Tensor) -> None:
        self._copy = value.to("cpu", non_blocking=True)
        self._arrived = None
        if value.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        """The number; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._copy)
