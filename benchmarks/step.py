"""Whole training steps beside transformers + PEFT, memory included: `crucible bench step`."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.kernels.common.tolerance import TOLERANCE
from crucible_kitchen.types import Datum

from .errors_of import WrongResult
from .step_batches import BATCHES, batch
from .step_contenders import CONTENDERS, EXACT, serve
from .timing import Timing, machine, slug

# Gradients are compared on the last tokens of a few rows at a time: float64 takes a second each.
PROBES, PROBE_ROWS, PROBE_TOKENS = 6, 2, 96
# Two ways to round in bfloat16 are draws of one kind. Which of them ends nearer to float64 differs
# from probe to probe (8 of `ragged` on SmolLM2: 0.7 to 2.3 times the peer, 1.02 in the mean), so
# what is compared is the mean over probes, and this is about three deviations of it.
CHANCE = 1.5
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class StepOptions:
    """How to measure.

    Args:
        model: a folder, a GGUF file, or a name that the wheel hub knows.
        rows: of a batch.
        length: tokens of a dense row, most tokens of a ragged one.
        dtype: of the base model.
        threads: of each contender; they never run at the same time.
        samples: steps of each.
        clock: ``wall`` or ``process``.
        device: ``cpu`` or ``cuda``.
        save: folder for the figures; None keeps none.
    """

    model: str = "smollm2-135m"
    rows: int = 4
    length: int = 512
    dtype: str = "float32"
    threads: int = 1
    samples: int = 5
    clock: str = "wall"
    device: str = "cpu"
    save: Path | None = None


@dataclass(frozen=True)
class StepRow:
    """What one contender took: seconds a step, memory, losses from step to step."""

    name: str
    median_s: float
    ratio: float
    tokens_per_s: float
    peak_bytes: int
    losses: tuple[float, ...]
    gradient_error: float | None  # None where no peer is installed to compare with


def run(options: StepOptions, say: Callable[[str], None] = print) -> None:
    """Measure both batches, and say a table of each.

    Raises:
        WrongResult: gradients of ours are further from float64 than those of the peer.
    """
    folder = str(prepare_model(options.model, HubClient()))
    where = machine(options.device) | {"threads": str(options.threads)}
    say("  ".join((where["device"], f"threads {options.threads}", f"torch {where['torch']}")))
    say(f"{options.clock} time, {options.samples} steps in turn; ratio: their time over ours")
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
        path = target / f"step-{options.dtype}-{options.threads}t.json"
        path.write_text(json.dumps({"machine": where, "figures": found}, indent=1) + "\n")
        say(f"written: {path}")


def lines(rows: list[StepRow]) -> Iterator[str]:
    """A table of at most 80 columns."""
    titles = ("s a step", "ratio", "tokens/s", "peak MB", "gradients", "loss")
    yield " " * 22 + "".join(f"{title:>9}" for title in titles)
    for row in rows:
        cells = (
            f"{row.median_s:.3f}",
            f"{row.ratio:.2f}x",
            f"{row.tokens_per_s:.0f}",
            f"{row.peak_bytes / 2**20:.0f}",
            "" if row.gradient_error is None else f"{row.gradient_error:.1e}",
            f"{row.losses[-1]:.4f}",
        )
        yield f"  {row.name:<20}" + "".join(f"{cell:>9}" for cell in cells)


def measure(
    folder: str, datums: Sequence[Datum], options: StepOptions, probed: Sequence[Sequence[Datum]]
) -> list[StepRow]:
    """One batch: gradients of `probed` compared, then steps in turn; the first row is ours."""
    names = contenders(options.device)
    with ExitStack() as stack:
        adapter = stack.enter_context(tempfile.TemporaryDirectory())
        write_adapter(folder, adapter)
        what = (
            options.dtype,
            datums,
            probed,
            options.threads,
            options.clock,
            options.device,
        )
        exact: list[dict[str, Any]] = [{} for _ in probed]
        if len(names) > 1:
            with _processes([EXACT], (folder, adapter, *what)) as pipes:
                exact = _ask(pipes[EXACT], "gradients")
        pipes = stack.enter_context(_processes(names, (folder, adapter, *what)))
        found = {name: _ask(pipe, "gradients") for name, pipe in pipes.items()}
        errors = gradient_errors(found, exact, options.dtype)
        first = {name: _ask(pipe, "step")[0] for name, pipe in pipes.items()}
        taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in names}
        for _ in range(options.samples):
            for name, pipe in pipes.items():
                taken[name].append(_ask(pipe, "step"))
    tokens = sum(datum.model_input.length for datum in datums)
    timings = {name: Timing(tuple(t[1] for t in taken[name])) for name in names}
    return [
        StepRow(
            name=name,
            median_s=timings[name].median,
            ratio=timings[name].over(timings["ours"]),
            tokens_per_s=tokens / timings[name].median,
            peak_bytes=taken[name][-1][2],
            losses=(first[name], *(t[0] for t in taken[name])),
            gradient_error=errors[name],
        )
        for name in names
    ]


def contenders(device: str) -> list[str]:
    """Ours, and those that are installed and run on the device."""
    installed = {
        name: importlib.util.find_spec(name) is not None for name in ("peft", "trl", "liger_kernel")
    }
    wanted = {"ours": True, "transformers + PEFT": installed["peft"]}
    wanted["TRL"] = installed["peft"] and installed["trl"]
    wanted["PEFT + Liger"] = device == "cuda" and installed["peft"] and installed["liger_kernel"]
    return [name for name in CONTENDERS if wanted[name]]


def gradient_errors(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    exact: Sequence[Mapping[str, Any]],
    dtype: str,
) -> Mapping[str, float | None]:
    """How far each one's gradients are from float64, relative to their norm; geometric means.

    Args:
        found: gradients by name of each probe, of ours and of the peers.
        exact: those of the peer's model in float64; nothing where no peer is installed.
        dtype: of the models.

    Raises:
        WrongResult: ours are further than each peer's by more than chance, and than one op may be.
    """
    if len(found) == 1:
        return dict.fromkeys(found)
    errors = {
        name: _geometric_mean([_distance(*pair) for pair in zip(gradients, exact, strict=True)])
        for name, gradients in found.items()
    }
    allowed = max(error for name, error in errors.items() if name != "ours")
    chance = 1 if dtype == "float32" else CHANCE
    if not errors["ours"] <= max(chance * allowed, TOLERANCE[getattr(torch, dtype)]):  # NaN fails
        raise WrongResult(
            "bench: step: gradients must be no further from float64 than a peer's, "
            f"{allowed:.1e} of their norm, got {errors['ours']:.1e}"
        )
    return errors


def probes(datums: Sequence[Datum]) -> list[list[Datum]]:
    """The last tokens of some rows, a few rows each: what is trained comes last."""

    def cut(datum: Datum) -> Datum:
        inputs = {
            name: values.tolist()[-PROBE_TOKENS:] for name, values in datum.loss_fn_inputs.items()
        }
        return Datum(datum.model_input.to_ints()[-PROBE_TOKENS:], inputs)

    starts = range(0, min(len(datums), PROBES * PROBE_ROWS), PROBE_ROWS)
    return [[cut(datum) for datum in datums[start : start + PROBE_ROWS]] for start in starts]


@contextmanager
def _processes(names: list[str], what: tuple[Any, ...]) -> Iterator[Mapping[str, Connection]]:
    """A process for each contender, ended when the block ends."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in names:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, name, *what), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies is an end of file here
        processes.append(process)
    try:
        yield pipes
    finally:
        for pipe, process in zip(pipes.values(), processes, strict=True):
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


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.prod(values) ** (1 / len(values)))


def _distance(got: Mapping[str, Any], want: Mapping[str, Any]) -> float:
    """Over all gradients together, relative to their norm; names must be the same."""
    if got.keys() != want.keys():  # NaN agrees with nothing
        return float("nan")
    apart = sum(float(np.square(got[name] - want[name]).sum()) for name in want)
    return float((apart / sum(float(np.square(value).sum()) for value in want.values())) ** 0.5)
