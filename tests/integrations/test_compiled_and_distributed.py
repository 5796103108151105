"""A patched model as one compiled graph, and in two processes under DDP and FSDP2."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import crucible_kitchen as ck
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.optim import AdamW

from .models import batch, step, tiny, with_lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]


def test_one_graph() -> None:
    model = with_lora(tiny("llama"))
    want, wants = step(model)
    ck.patch(model)
    inner = model.get_base_model()
    compiled = torch.compile(inner, fullgraph=True, backend="eager")
    model.zero_grad()
    loss = compiled(**batch()).loss
    loss.backward()
    assert abs(loss - want) <= 1e-5 * abs(want)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            assert (weight.grad - wants[name]).norm() <= 1e-5 * wants[name].norm(), name


def rows_of(rank: int) -> dict[str, torch.Tensor]:
    """One row of the batch: as many trained tokens on each rank, so that means are means."""
    whole = batch()
    whole["labels"][0, 8:] = -100
    return {name: rows[rank : rank + 1] for name, rows in whole.items()}


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def spawn(work: Callable[..., None], folder: Path) -> dict[str, torch.Tensor]:
    """What rank 0 of two saved."""
    with pytest.MonkeyPatch.context() as patch:
        # The processes find this module as pytest calls it, from the root of the repository.
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        mp.spawn(_in_group, args=(work, str(folder)), nprocs=2, join=True)
    return torch.load(folder / "trained.pt")  # type: ignore[no-any-return]


def _in_group(rank: int, work: Callable[..., None], folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        work(rank, os.path.join(folder, "trained.pt"))
    finally:
        dist.destroy_process_group()


def three_steps(model: nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        for rows in batches:
            (model(**rows).loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()


def under_ddp(rank: int, file: str) -> None:
    model = with_lora(tiny("llama"))
    ck.patch(model)
    three_steps(nn.parallel.DistributedDataParallel(model), [rows_of(rank)])
    if rank == 0:
        torch.save(trained(model), file)
    with pytest.raises(ConfigError, match="without DistributedDataParallel"):
        ck.patch(nn.parallel.DistributedDataParallel(model))


def under_fsdp(rank: int, file: str) -> None:
    from torch.distributed.fsdp import fully_shard

    model = with_lora(tiny("llama"))
    ck.patch(model)
    inner: Any = model.get_base_model()
    for layer in inner.model.layers:
        fully_shard(layer)
    fully_shard(model)
    three_steps(model, [rows_of(rank)])
    whole = {name: weight.full_tensor() for name, weight in trained(model).items()}
    if rank == 0:
        torch.save(whole, file)
    other = tiny("llama")
    fully_shard(other)
    with pytest.raises(ConfigError, match="patch it before fully_shard"):
        ck.patch(other)


@pytest.mark.parametrize("work", [under_ddp, under_fsdp])
def test_two_processes_train_what_one_trains(work: Callable[..., None], tmp_path: Path) -> None:
    one = with_lora(tiny("llama"))
    ck.patch(one)
    before = copy.deepcopy(trained(one))
    three_steps(one, [rows_of(0), rows_of(1)])
    got = spawn(work, tmp_path)
    assert got.keys() == trained(one).keys()
    for name, want in trained(one).items():
        moved = (want - before[name]).norm()
        assert moved > 0
        assert (got[name] - want).norm() <= 1e-3 * moved, name
