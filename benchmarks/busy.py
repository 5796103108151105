"""A training step on cores that other processes use too, by how its threads wait for each other.

    python -m crucible_kitchen.benchmarks.busy --threads 2

Every parallel loop ends when its last thread does. A thread that spins until then keeps a core from
the one it waits for; one that sleeps hands it over and has to be woken. The step is timed alone and
beside as many busy processes as it has threads. The scheduler gives it half of each core then, so
twice the time alone is the ideal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crucible_kitchen import nn
from crucible_kitchen.adapters.local.model import CausalModel, quiet
from crucible_kitchen.adapters.local.packed import Packed

from .timing import machine

# OMP_WAIT_POLICY, and what OpenMP does where it is not set: spin for a while, then sleep. (Threads
# that are ACTIVE spin between the steps too, and so would be among the others' neighbours.)
POLICIES = ("PASSIVE", "not set")
# Half of each core, with as many busy processes as threads.
IDEAL = 2.0


@dataclass(frozen=True)
class Shape:
    """The step: LoRA on layers of SmolLM2-135M's sizes, forward and backward.

    Args:
        layers: of the model, whose weights are random.
        tokens: of the batch, all of them trained.
        hidden: H; heads are 64 wide, the MLP 8/3 H.
        vocabulary: V.
    """

    layers: int = 6
    tokens: int = 512
    hidden: int = 576
    vocabulary: int = 4096


@dataclass(frozen=True)
class Row:
    """Seconds a step alone and beside the others, medians over the rounds."""

    policy: str
    alone_s: float
    busy_s: float

    @property
    def over_ideal(self) -> float:
        """1 where nothing is lost beside what the others take."""
        return self.busy_s / (IDEAL * self.alone_s)


def run(
    shape: Shape, *, threads: int, samples: int, policies: Sequence[str] = POLICIES
) -> list[Row]:
    """Time steps of one process for each policy, in turn, alone and beside busy processes."""
    context = multiprocessing.get_context("spawn")
    on = context.Event()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        _write_model(shape, folder)
        pipes = {
            policy: stack.enter_context(_stepper(policy, folder, shape, threads))
            for policy in policies
        }
        for _ in range(threads):
            stack.enter_context(_process(_neighbour, (on,)))
        taken: dict[tuple[str, bool], list[float]] = {}
        for _ in range(samples):
            for busy in (False, True):
                on.set() if busy else on.clear()
                for policy, pipe in pipes.items():
                    pipe.send("step")
                    taken.setdefault((policy, busy), []).append(pipe.recv())
    median = {key: statistics.median(seconds) for key, seconds in taken.items()}
    return [Row(policy, median[policy, False], median[policy, True]) for policy in policies]


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A table of at most 80 columns."""
    yield f"{'OMP_WAIT_POLICY':<20}{'s alone':>10}{'s busy':>10}{'over twice alone':>20}"
    for row in rows:
        yield f"{row.policy:<20}{row.alone_s:>10.3f}{row.busy_s:>10.3f}{row.over_ideal:>19.2f}x"


def _write_model(shape: Shape, folder: str) -> None:
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.hidden * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=1,
        vocab_size=shape.vocabulary,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)


@contextmanager
def _process(target: Callable[..., None], args: tuple[object, ...]) -> Iterator[None]:
    """A process of its own, ended with the block."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


@contextmanager
def _stepper(policy: str, folder: str, shape: Shape, threads: int) -> Iterator[Connection]:
    """A process that takes a step when it is told to, under a policy; warm when this returns."""
    before = os.environ.pop("OMP_WAIT_POLICY", None)
    if policy != "not set":
        os.environ["OMP_WAIT_POLICY"] = policy  # read once, when OpenMP is loaded
    pipe, theirs = multiprocessing.get_context("spawn").Pipe()
    with _process(_serve, (theirs, folder, shape, threads)):
        os.environ.pop("OMP_WAIT_POLICY", None)
        if before is not None:
            os.environ["OMP_WAIT_POLICY"] = before
        theirs.close()  # so that a process that dies is an end of file here
        pipe.recv()
        yield pipe


def _serve(pipe: Connection, folder: str, shape: Shape, threads: int) -> None:
    torch.set_num_threads(threads)
    model = CausalModel.load(Path(folder), dtype="float32", device="cpu")
    nn.apply_lora(model.model, nn.LoraConfig(rank=16))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, shape.vocabulary, (shape.tokens + 1,), generator=generator)
    packed = Packed.of([tokens[:-1].tolist()], model.device)
    rows = torch.arange(shape.tokens)

    def step() -> float:
        begin = time.perf_counter()
        (-model.logprobs(packed, rows, tokens[1:]).sum()).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - begin

    pipe.send(step())
    while pipe.recv():
        pipe.send(step())


def _neighbour(on: Event) -> None:
    while True:
        on.wait()
        sum(range(10_000))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="a training step beside other work")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--samples", type=int, default=9)
    given = parser.parse_args(arguments)
    where: Mapping[str, str] = machine("cpu")
    print(f"{where['device']}  threads {given.threads}  torch {where['torch']}")
    print("\n".join(lines(run(Shape(), threads=given.threads, samples=given.samples))))


if __name__ == "__main__":
    main()
