"""Models with our kernels as one compiled graph, and in two processes under DDP and FSDP2."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import crucible_kitchen as ck
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.nn import LoraConfig, apply_lora, lora_modules
from crucible_kitchen.optim import AdamW

from .models import batch, step, tiny, with_lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]


def patched() -> nn.Module:
    """PEFT's LoRA by our kernels."""
    model = with_lora(tiny("llama"))
    ck.patch(model)
    return model


def ours() -> nn.Module:
    """LoRA of our own in a model that is not patched."""
    model = apply_lora(tiny("llama"), LoraConfig(rank=4))
    generator = torch.Generator().manual_seed(5)
    for _, layer in lora_modules(model):
        layer.lora_b.data.normal_(std=0.1, generator=generator)
    return model


MODELS = {"patched": patched, "ours": ours}


@pytest.mark.parametrize("name", MODELS)
def test_one_graph(name: str) -> None:
    model = with_lora(tiny("llama")) if name == "patched" else ours()
    want, wants = step(model)
    model = MODELS[name]()
    inner = model.get_base_model() if name == "patched" else model
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


def spawn(work: Callable[..., None], folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What rank 0 of two saved of each model."""
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
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(params, lr=1e-2, max_grad_norm=0.1)
    for _ in range(3):
        for rows in batches:
            (model(**rows).loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()


def under_ddp(rank: int, file: str) -> None:
    given = {}
    for name, make in MODELS.items():
        model = make()
        three_steps(nn.parallel.DistributedDataParallel(model), [rows_of(rank)])
        given[name] = trained(model)
    if rank == 0:
        torch.save(given, file)
    with pytest.raises(ConfigError, match="without DistributedDataParallel"):
        ck.patch(nn.parallel.DistributedDataParallel(with_lora(tiny("llama"))))


def under_fsdp(rank: int, file: str) -> None:
    from torch.distributed.fsdp import fully_shard

    given = {}
    for name, make in MODELS.items():
        model = make()
        for layer in [m for m in model.modules() if type(m).__name__ == "LlamaDecoderLayer"]:
            fully_shard(layer)
        fully_shard(model)
        three_steps(model, [rows_of(rank)])
        given[name] = {name: weight.full_tensor() for name, weight in trained(model).items()}
    if rank == 0:
        torch.save(given, file)
    other = tiny("llama")
    fully_shard(other)
    with pytest.raises(ConfigError, match="patch it before fully_shard"):
        ck.patch(other)


@pytest.mark.parametrize("work", [under_ddp, under_fsdp])
def test_two_processes_train_what_one_trains(work: Callable[..., None], tmp_path: Path) -> None:
    given = spawn(work, tmp_path)
    for name, make in MODELS.items():
        one = make()
        before = copy.deepcopy(trained(one))
        three_steps(one, [rows_of(0), rows_of(1)])
        assert given[name].keys() == before.keys()
        for path, want in trained(one).items():
            moved = (want - before[path]).norm()
            assert moved > 0
            assert (given[name][path] - want).norm() <= 1e-3 * moved, path
