"""Frozen weights kept in parts, one in each process; FSDP2 puts a layer together while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def shard(model: Any, trained: Sequence[nn.Parameter], device: torch.device) -> None:
    """Keep this process's rows of every frozen weight, in place of the weight.

    A decoder layer gathers its weights when it runs and gives them back behind itself, in the
    backward pass too. What is in no layer (embeddings, head, last norm) is gathered by `whole`.

    Args:
        model: of transformers, on the CPU, and the same in every process.
        trained: stays whole in each of them.
        device: where the parts go, and what is trained.

    Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """
    # Imported here: a process by itself needs neither, and they take long.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP computes on the current one
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    mesh, ignored = init_device_mesh(device.type, (dist.get_world_size(),)), set(trained)
    for part in (*_layers(model), model):
        fully_shard(part, mesh=mesh, ignored_params=ignored)
    model.set_reshard_after_backward(False, recurse=False)  # `whole` ends later
    # FSDP takes the module that is called first for its root.
    with torch.no_grad(), whole(model):
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=False)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """For some passes, let a sharded model have whole what is in none of its layers.

    All processes must run as many passes in it, forward and backward: each gathers from all.
    """
    model.unshard()
    try:
        yield
    except BaseException:
        # Layers may wait for a backward pass that will not come; torch before 2.13 keeps them so.
        getattr(model, "reset_iter_state", model.reshard)()
        raise
    model.reshard()


def _layers(model: Any) -> list[nn.Module]:
    """The decoder layers: what transformers names as not to be split between devices."""
    names = model._no_split_modules or ()
    return [module for module in model.modules() if type(module).__name__ in names]
