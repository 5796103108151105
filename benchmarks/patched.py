"""A training step of transformers' models as they are, and after ``ck.patch``.

    python -m crucible_kitchen.benchmarks.patched --threads 1 --save benchmarks/results

Five architectures at random weights and one real model, in float32 and bfloat16, with PEFT's LoRA
on every linear: forward and backward of one padded batch. Both run in processes of their own, some
steps in turn; losses and gradients must agree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.wheel import HubClient

from .drop_in import side_by_side
from .step_contenders import peak_bytes
from .timing import CLOCKS, machine, slug

ARCHITECTURES: Final = ("llama", "qwen3", "gemma2", "phi3", "olmo2")
REAL: Final = "smollm2-135m"
SIZES: Final = {
    "vocab_size": 32_000,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Share of each row of a batch that is no padding.
ROWS: Final = (1.0, 0.75, 0.5, 0.25)
# Of losses and of each gradient; in bfloat16, where both round in places of their own, of all
# gradients together.
AGREEMENT: Final = {"float32": 1e-4, "bfloat16": 0.1}

_CLOCK_SAID: Final = {
    "wall": "time on a machine that does nothing else",
    "process": "time of the processor, on a machine that did other work too",
}


@dataclass(frozen=True)
class Task:
    """What takes a step.

    Args:
        name: one of `ARCHITECTURES`, at random weights, or a model's.
        folder: of that model; empty for an architecture.
        dtype: of its weights.
        length: tokens of the longest row.
        steps: in each turn.
        threads: of each process; they never run at the same time.
        clock: ``wall`` or ``process``.
    """

    name: str
    folder: str
    dtype: str
    length: int
    steps: int
    threads: int
    clock: str


def model_of(task: Task) -> Any:
    """The model in training, with LoRA of rank 16 whose every matrix has a gradient."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = getattr(torch, task.dtype)
    model: Any
    if task.folder:
        model = AutoModelForCausalLM.from_pretrained(task.folder, dtype=dtype)
    else:
        config = AutoConfig.for_model(task.name, **SIZES)
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, dtype=dtype)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # a zero B would hide the gradient of A
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.01)
    return model.train()


def batch_of(task: Task, vocabulary: int) -> dict[str, torch.Tensor]:
    """Rows of random tokens, padded on the right, all of them trained."""
    shape = len(ROWS), task.length
    tokens = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(2))
    ends = torch.tensor([int(share * task.length) for share in ROWS])
    mask = torch.arange(task.length) < ends[:, None]
    return {
        "input_ids": tokens,
        "attention_mask": mask.long(),
        "labels": tokens.masked_fill(~mask, -100),
    }


def serve(pipe: Connection, task: Task, patched: bool) -> None:
    """Take steps whenever asked, until told to end; what a contender's process runs."""
    import peft  # noqa: F401 - what it takes is not the model's
    import transformers  # noqa: F401

    import crucible_kitchen as ck

    torch.set_num_threads(task.threads)
    now = CLOCKS[task.clock]
    before = peak_bytes("cpu")
    model = model_of(task)
    batch = batch_of(task, model.config.vocab_size)
    if patched:
        ck.patch(model)
    gradients: dict[str, Any] = {}
    while pipe.recv() != "end":
        losses, seconds = [], []
        for _ in range(task.steps):
            model.zero_grad()
            began = now()
            loss = model(**batch).loss
            loss.backward()
            seconds.append(now() - began)
            losses.append(float(loss.detach()))
        if not gradients:
            named = ((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)
            gradients = {name: grad.float().numpy().copy() for name, grad in named}
        pipe.send((losses, seconds, gradients, peak_bytes("cpu") - before))


def table(where: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The figures as a page."""
    yield "# A training step of transformers' models, as they are and after `ck.patch`"
    yield ""
    yield (
        f"{where['device']}, threads {where['threads']}, torch {where['torch']}, {where['date']}; "
        f"{_CLOCK_SAID[where['clock']]}."
    )
    yield ""
    yield "| model | dtype | ms a step | patched | times as fast | memory | patched | of it |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found.values():
        yield (
            f"| {row['name']} | {row['dtype']} | {1e3 * row['plain_s']:.0f} | "
            f"{1e3 * row['patched_s']:.0f} | {row['ratio']:.2f} | "
            f"{row['plain_bytes'] / 2**20:.0f} MiB | {row['patched_bytes'] / 2**20:.0f} MiB | "
            f"{row['patched_bytes'] / row['plain_bytes']:.2f} |"
        )


def _save(folder: Path, where: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]) -> None:
    target = folder / slug(where["device"])
    target.mkdir(parents=True, exist_ok=True)
    figures = json.dumps({"machine": where, "figures": found}, indent=1)
    (target / f"patched-{where['threads']}t.json").write_text(figures + "\n")
    page = "\n".join(table(where, found))
    (target / f"patched-{where['threads']}t.md").write_text(page + "\n")


def main() -> None:
    """Say a line of each model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[*ARCHITECTURES, REAL])
    parser.add_argument("--dtypes", nargs="+", choices=list(AGREEMENT), default=list(AGREEMENT))
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    where = machine("cpu") | {"threads": str(given.threads), "clock": given.clock}
    found = {}
    for name in given.models:
        folder = "" if name in ARCHITECTURES else str(prepare_model(name, HubClient()))
        for dtype in given.dtypes:
            options = given.length, given.steps, given.threads, given.clock
            task = Task(name, folder, dtype, *options)
            rounded = dtype == "bfloat16"
            row = side_by_side(serve, task, given.turns, AGREEMENT[dtype], whole=rounded)
            found[f"{name} {dtype}"] = {**asdict(task), "folder": Path(folder).name, **row}
            print(
                f"{name:<14} {dtype:<9} {row['plain_s']:.3f} s a step, patched "
                f"{row['patched_s']:.3f} s: {row['ratio']:.2f}x, memory {row['memory_ratio']:.2f}x",
                flush=True,
            )
            if given.save is not None:  # what is measured by then, if a later one fails
                _save(given.save, where, found)


if __name__ == "__main__":
    main()
