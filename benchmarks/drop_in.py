"""TRL's SFTTrainer as it is, and with one more line: ``ck.patch(trainer.model)``.

    pip install '.[peers]'
    python -m crucible_kitchen.benchmarks.drop_in --threads 2

Both train the same LoRA on the same rows of ``builtin:python-docs``, each in a process of its own,
some steps in turn. Losses of every step and the gradients of the first must agree.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from crucible_kitchen.adapters.builtin import DatasetStore
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.wheel import HubClient

from .errors_of import WrongResult
from .step_batches import DATASET
from .step_contenders import peak_bytes
from .timing import CLOCKS, Timing, machine, slug

KINDS = ("completions", "everything")
# Of gradients and losses: some hundred operations are rounded in other places, in float32.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Task:
    """What is trained, and how much of it at once.

    Args:
        folder: of the model.
        kind: ``completions`` trains the answers alone, ``everything`` all tokens of a row.
        rows: of a batch, padded by TRL to the longest.
        length: most tokens of a row.
        steps: in each turn.
        threads: of each process; they never run at the same time.
        clock: ``wall`` or ``process``.
    """

    folder: str
    kind: str
    rows: int
    length: int
    steps: int
    threads: int
    clock: str


def dataset(task: Task) -> list[dict[str, str]]:
    """Rows as TRL takes them, as many as a turn needs."""
    store = DatasetStore()
    split = store.get_split(store.load_dataset(DATASET), "train")
    some = store.to_list(store.take(store.shuffle(split, seed=0), task.rows * task.steps))
    pairs = [tuple(message["content"] for message in row["messages"]) for row in some]
    if task.kind == "everything":
        return [{"text": f"{prompt}\n{answer}"} for prompt, answer in pairs]
    return [{"prompt": f"{prompt}\n", "completion": answer} for prompt, answer in pairs]


def trainer_of(task: Task, out: str) -> Any:
    """TRL's trainer, with LoRA of rank 16 on every linear and nothing else chosen."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    arguments = SFTConfig(
        out,
        max_steps=task.steps,
        per_device_train_batch_size=task.rows,
        max_length=task.length,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights="gaussian"
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32),
        arguments,
        train_dataset=Dataset.from_list(dataset(task)),
        processing_class=AutoTokenizer.from_pretrained(task.folder),
        peft_config=lora,
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:  # a zero B would hide the gradient of A
            weight.data.normal_(std=0.01, generator=generator)
    return trainer


def serve(pipe: Connection, task: Task, patched: bool) -> None:
    """Train whenever asked, until told to end; what a contender's process runs."""
    from transformers import TrainerCallback

    import crucible_kitchen as ck

    torch.set_num_threads(task.threads)
    now = CLOCKS[task.clock]
    seconds: list[float] = []
    gradients: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-now())

        def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
            if not gradients:
                named = given["model"].named_parameters()
                found = ((n, p.grad) for n, p in named if p.grad is not None)
                gradients.update((n, g.numpy().copy()) for n, g in found)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += now()

    with (
        tempfile.TemporaryDirectory() as out,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
    ):
        trainer = trainer_of(task, out)
        if patched:
            ck.patch(trainer.model)
        trainer.add_callback(Watch())
        while pipe.recv() != "end":
            seconds.clear()
            trainer.state.log_history.clear()
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            pipe.send((losses, list(seconds), gradients, peak_bytes("cpu")))


def side_by_side(
    work: Callable[[Connection, Any, bool], None],
    task: Any,
    turns: int,
    agreement: float,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Seconds and memory of a patched and an unpatched process, and their ratios.

    Args:
        work: what each process runs: its end of a pipe, the task, and whether it is patched. Asked
            for a turn it gives losses, seconds of each step, gradients of the first, and bytes.
        task: what is handed to it.
        turns: that are counted; one before them packs weights and warms caches.
        agreement: how far, relatively, losses and gradients may differ.
        whole: the gradients are held to that all together, and not each by itself.

    Raises:
        WrongResult: they differ by more.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for patched in (True, False):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, task, patched), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies is an end of file here
        pipes.append(ours)
        processes.append(process)
    taken: list[list[float]] = [[], []]
    answers: list[Any] = [None, None]
    for turn in range(turns + 1):
        for i, pipe in enumerate(pipes):
            pipe.send("train")
            answers[i] = pipe.recv()
            if turn:
                taken[i] += answers[i][1]
        _agree(answers, agreement, whole)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("end")
        process.join()
    patched_s, plain_s = (Timing(tuple(samples)) for samples in taken)
    return {
        "patched_s": patched_s.median,
        "plain_s": plain_s.median,
        "ratio": plain_s.over(patched_s),
        "patched_bytes": answers[0][3],
        "plain_bytes": answers[1][3],
        "memory_ratio": answers[1][3] / answers[0][3],
        "losses": answers[0][0],
        "plain_losses": answers[1][0],
    }


def _agree(answers: Sequence[Any], agreement: float = AGREEMENT, whole: bool = False) -> None:
    (losses, _, gradients, _), (wants, _, want_gradients, _) = answers
    for got, want in zip(losses, wants, strict=True):
        if not abs(got - want) <= agreement * abs(want):
            raise WrongResult(f"patched: a loss must be {want}, got {got}")
    squares = {
        name: (((gradients[name] - want) ** 2).sum(), (want**2).sum())
        for name, want in want_gradients.items()
    }
    if whole:
        errors, sizes = zip(*squares.values(), strict=True)
        squares = {"all": (sum(errors), sum(sizes))}
    for name, (error, size) in squares.items():
        if not error**0.5 <= agreement * size**0.5:
            raise WrongResult(
                f"patched: the gradient of {name} must be that of the unpatched, off by "
                f"{(error / size) ** 0.5:.2g} of its norm"
            )


def main() -> None:
    """Say a line of each kind of training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    folder = str(prepare_model(given.model, HubClient()))
    where = machine("cpu") | {"threads": str(given.threads)}
    print("  ".join((where["device"], f"threads {given.threads}", f"torch {where['torch']}")))
    found = {}
    for kind in given.kinds:
        started = time.monotonic()
        task = Task(folder, kind, given.rows, given.length, given.steps, given.threads, given.clock)
        row = found[kind] = side_by_side(serve, task, given.turns, AGREEMENT)
        print(
            f"TRL {kind:<12} {row['plain_s']:.2f} s a step, patched {row['patched_s']:.2f} s: "
            f"{row['ratio']:.2f}x, memory {row['memory_ratio']:.2f}x  "
            f"({time.monotonic() - started:.0f} s in all)"
        )
    if given.save is not None:
        target = given.save / slug(where["device"])
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"drop_in-{given.threads}t.json"
        path.write_text(json.dumps({"machine": where, "figures": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
