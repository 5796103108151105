"""Whole training steps beside transformers + PEFT, memory included: `crucible bench step`."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.types import Datum

from .errors_of import WrongResult
from .step_batches import BATCHES, batch
from .step_contenders import CONTENDERS, EXACT, OURS, Contender, Step, serve
from .step_gradients import PROBE_ROWS, PROBES, check_gradients, gradient_error, probes
from .timing import Timing, machine, slug

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class StepOptions:
    """How to measure.

    Args:
        model: a folder, a GGUF file, or a name that the wheel hub knows.
        rows: of a batch.
        length: tokens of a dense row, most tokens of a ragged one.
        dtypes: of the base model.
        threads: of each contender; they never run at the same time.
        samples: steps of each.
        clock: ``wall`` or ``process``.
        device: ``cpu`` or ``cuda``.
        save: folder for the figures; None keeps none.
    """

    model: str = "smollm2-135m"
    rows: int = 4
    length: int = 512
    dtypes: tuple[str, ...] = DTYPES
    threads: int = 1
    samples: int = 5
    clock: str = "wall"
    device: str = "cpu"
    save: Path | None = None


@dataclass(frozen=True)
class StepRow:
    """What one contender took: seconds a step, memory, losses from step to step.

    Args:
        samples: steps that were timed; 1 of a peer in its slower dtype.
        ratio: what the best peer takes over this.
        gradient_error: None where no peer is installed to compare with.
    """

    name: str
    dtype: str
    samples: int
    median_s: float
    ratio: float
    tokens_per_s: float
    peak_bytes: int
    losses: tuple[float, ...]
    gradient_error: float | None


def run(options: StepOptions, say: Callable[[str], None] = print) -> None:
    """Measure both batches, and say a table of each.

    Raises:
        WrongResult: gradients of ours are further from float64 than those of the peer.
    """
    folder = str(prepare_model(options.model, HubClient()))
    where = machine(options.device) | {"threads": str(options.threads)}
    say("  ".join((where["device"], f"threads {options.threads}", f"torch {where['torch']}")))
    say(f"{options.clock} time, {options.samples} steps in turn, of a peer in its faster dtype")
    found = {}
    for kind in BATCHES:
        rows = max(options.rows, PROBES * PROBE_ROWS)
        drawn = batch(kind, folder, rows=rows, length=options.length)
        datums, probed = drawn[: options.rows], probes(drawn)
        tokens = sum(datum.model_input.length for datum in datums)
        trained = sum(datum.num_trained_tokens for datum in datums)
        say(f"\nstep  {kind}  {len(datums)} rows, {tokens} tokens, {trained} trained")
        taken = measure(folder, datums, options, probed)
        found[kind] = {"tokens": tokens, "trained": trained, "rows": [asdict(r) for r in taken]}
        say("\n".join(lines(taken)))
    if options.save is not None:
        target = options.save / slug(where["device"])
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"step-{options.threads}t.json"
        path.write_text(json.dumps({"machine": where, "figures": found}, indent=1) + "\n")
        say(f"written: {path}")


def lines(rows: list[StepRow]) -> Iterator[str]:
    """A table of at most 80 columns."""
    titles = ("s a step", "ratio", "tok/s", "peak MB", "error", "loss")
    yield " " * 30 + "".join(f"{title:>8}" for title in titles)
    for row in rows:
        cells = (
            f"{row.median_s:.3f}",
            f"{row.ratio:.2f}x",
            f"{row.tokens_per_s:.0f}",
            f"{row.peak_bytes / 2**20:.0f}",
            "" if row.gradient_error is None else f"{row.gradient_error:.1e}",
            f"{row.losses[-1]:.4f}",
        )
        yield f"  {row.name:<19} {row.dtype:<8}" + "".join(f"{cell:>8}" for cell in cells)


def measure(
    folder: str, datums: Sequence[Datum], options: StepOptions, probed: Sequence[Sequence[Datum]]
) -> list[StepRow]:
    """One batch: gradients of `probed` compared, then steps in turn.

    Ours, whose rows come first, are timed in each dtype; a peer in its slower one has one step.
    """
    own, *peers = contenders(options.device)
    ours = [Contender(own, dtype) for dtype in options.dtypes]
    exact: dict[str, Any] = {}
    errors: dict[Contender, float] = {}
    alone: dict[Contender, Step] = {}
    with tempfile.TemporaryDirectory() as adapter:
        write_adapter(folder, adapter)
        what = (folder, adapter, datums, probed, options.threads, options.clock, options.device)
        for dtype in options.dtypes if peers else ():
            beside = [Contender(name, dtype) for name in peers]
            with _processes([Contender(EXACT, dtype), *beside], what) as (truth, *pipes):
                exact[dtype] = _ask(truth, "gradients")
                for one, pipe in zip(beside, pipes, strict=True):
                    errors[one] = gradient_error(_ask(pipe, "gradients"), exact[dtype])
                    alone[one] = _ask(pipe, "step")
        chosen = [*ours, *faster({one: step.seconds for one, step in alone.items()})]
        with _processes(chosen, what) as pipes:
            for one, pipe in zip(ours if peers else (), pipes, strict=False):
                errors[one] = gradient_error(_ask(pipe, "gradients"), exact[one.dtype])
                check_gradients(one, errors)
            # The first turn is not counted.
            turns = [[_ask(pipe, "step") for pipe in pipes] for _ in range(1 + options.samples)]
    taken: dict[Contender, list[Step]] = {one: [step] for one, step in alone.items()}
    taken |= {one: steps for one, *steps in zip(chosen, *turns, strict=True)}
    tokens = sum(datum.model_input.length for datum in datums)
    return _rows(taken, errors, chosen, tokens)


def _rows(
    taken: Mapping[Contender, Sequence[Step]],
    errors: Mapping[Contender, float],
    chosen: Sequence[Contender],
    tokens: int,
) -> list[StepRow]:
    timings = {
        one: Timing(tuple(step.seconds for step in steps[1:] or steps))
        for one, steps in taken.items()
    }
    peers = [one for one in chosen if one.name != OURS]
    best = timings[min(peers or chosen, key=lambda one: timings[one].median)]
    order = list(CONTENDERS)
    return [
        StepRow(
            name=one.name,
            dtype=one.dtype,
            samples=len(own.samples),
            median_s=own.median,
            ratio=best.over(own) if len(own.samples) > 1 else best.median / own.median,
            tokens_per_s=tokens / own.median,
            peak_bytes=taken[one][-1].peak_bytes,
            losses=tuple(step.loss for step in taken[one]),
            gradient_error=errors.get(one),
        )
        for one, own in sorted(timings.items(), key=lambda pair: order.index(pair[0].name))
    ]


def faster(seconds: Mapping[Contender, float]) -> list[Contender]:
    """Each name once, in the dtype that took least."""
    slowest_first = sorted(seconds, key=seconds.__getitem__, reverse=True)
    return list({one.name: one for one in slowest_first}.values())


def contenders(device: str) -> list[str]:
    """Ours, and those that are installed and run on the device."""
    installed = {
        name: importlib.util.find_spec(name) is not None for name in ("peft", "trl", "liger_kernel")
    }
    wanted = {OURS: True, "transformers + PEFT": installed["peft"]}
    wanted["TRL"] = installed["peft"] and installed["trl"]
    wanted["PEFT + Liger"] = device == "cuda" and installed["peft"] and installed["liger_kernel"]
    return [name for name in CONTENDERS if wanted[name]]


@contextmanager
def _processes(chosen: Sequence[Contender], what: tuple[Any, ...]) -> Iterator[list[Connection]]:
    """A process for each contender, ended when the block ends."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for one in chosen:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, one, *what), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies is an end of file here
        pipes.append(ours)
        processes.append(process)
    try:
        yield pipes
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            if process.is_alive():
                pipe.send("end")
            process.join()


def write_adapter(folder: str, adapter: str) -> None:
    """LoRA weights to start from, both matrices drawn: a zero B would hide the gradient of A."""
    from crucible_kitchen import nn
    from crucible_kitchen.adapters.local.model import CausalModel

    model = CausalModel.load(folder, dtype="float32", device="cpu").model
    nn.apply_lora(model, nn.LoraConfig(rank=16, alpha=32))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in nn.lora_state_dict(model).items():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.01, generator=generator)
    nn.save_lora(model, adapter)


def _ask(pipe: Connection, what: str) -> Any:
    try:
        pipe.send(what)
        return pipe.recv()
    except (EOFError, BrokenPipeError) as error:
        raise WrongResult("bench: step: a contender's process ended; its error is above") from error
