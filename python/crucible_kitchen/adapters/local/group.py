"""The processes that train one model together, as `torchrun` starts them; one by itself is one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from crucible_kitchen.errors import PortError

T = TypeVar("T")

# A process that is gone is noticed at once by gloo; this is for one that hangs.
_PATIENCE = timedelta(minutes=30)


@contextmanager
def speaking_of_others(doing: str) -> Iterator[None]:
    """Say what could not be done with the other processes, one of which may be gone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise PortError(f"training_client: could not {doing}: {error}") from error


class Group:
    """Every process holds what is trained and computes the gradients of its share of each batch.

    Args:
        rank: which process this is, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def of_environment(cls, device: torch.device) -> Group:
        """Join the processes that `torchrun` started, or be alone.

        Args:
            device: what the model is on; decides between gloo and NCCL.

        Raises:
            PortError: the other processes cannot be reached.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            with speaking_of_others(f"join the {size} processes of WORLD_SIZE"):
                dist.init_process_group(backend, timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, items: Sequence[T], together: int = 1) -> Sequence[T]:
        """This process's part of a batch: every `size`-th of them, so that lengths even out.

        Args:
            together: how many that follow each other stay in one process. Two for answers that are
                compared: they share their prompt, and where their gradients cancel, they do so
                before anything is rounded to be sent.
        """
        places = range(len(items))
        return [items[i] for i in places if i // together % self.size == self.rank]

    def gather(self, mine: Any) -> list[Any]:
        """What each process gave, by rank."""
        if self.size == 1:
            return [mine]
        parts: list[Any] = [None] * self.size
        with speaking_of_others("gather from the others"):
            dist.all_gather_object(parts, mine)
        return parts

    def interleave(self, mine: Sequence[T], together: int = 1) -> list[T]:
        """What every process made of its share, in the order of the batch; undoes `share`."""
        parts = self.gather(list(mine))
        total, rest = sum(map(len, parts)), [iter(part) for part in parts]
        return [next(rest[i // together % self.size]) for i in range(total)]

    def sum_gradients(self, params: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes, in place and in one message.

        A parameter that has none in any process keeps none.
        """
        if self.size == 1:
            return
        with speaking_of_others("add up gradients"):
            _sum_gradients(params)


def _sum_gradients(params: Sequence[Tensor]) -> None:
    has = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
    dist.all_reduce(has)
    shared = [p for p, count in zip(params, has.tolist(), strict=True) if count]
    for param in shared:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    if not shared:
        return
    grads = [param.grad for param in shared if param.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    parts = torch.split(flat, [grad.numel() for grad in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))
