"""What a whole training step takes: ours beside transformers + PEFT, by torch's profiler.

    python -m crucible_kitchen.benchmarks.step_profile --threads 1 --save benchmarks/results

What an op of ours takes is counted whole; of torch's, what each takes without those it calls. The
head's products are a part of our loss, and of the peer's products.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from crucible_kitchen import _C, ops
from crucible_kitchen.types import Datum

from .step import write_adapter
from .step_batches import BATCHES, batch
from .step_contenders import Ours, Peft
from .timing import machine, slug

_OURS = "crucible_kitchen::"
# The first whose part is in an op's name has it.
_PARTS = {
    "attention": ("attention", "attn"),
    "loss": ("logprobs", "log_softmax", "nll_loss", "cross_entropy"),
    "optimizer": ("adamw", "grad_norm", "_foreach", "linalg_vector_norm", "optimizer"),
    "products": ("lora_linear", "::mm", "addmm", "bmm", "matmul", "linear"),
    "norms, gate, rotary": (
        "rms_norm",
        "swiglu",
        "rope",
        "silu",
        "rsqrt",
        "pow",
        "mean",
        "neg",
    ),
    "copies and fills": ("copy", "clone", "fill", "zero", "cat", "empty", "contiguous"),
    "sums by element": ("::add", "::mul", "::sum", "::div", "::sub"),
}
PARTS = (*_PARTS, "the rest")
# Who computes, and in which dtype.
CONTENDERS: dict[str, tuple[type[Ours] | type[Peft], str]] = {
    "ours, bfloat16": (Ours, "bfloat16"),
    "ours": (Ours, "float32"),
    "transformers + PEFT": (Peft, "float32"),
}


def part_of(name: str) -> str:
    """The kind of work that an op does."""
    lower = name.lower()
    found = (part for part, words in _PARTS.items() if any(word in lower for word in words))
    return next(found, PARTS[-1])


def measure(
    folder: str, datums: Sequence[Datum], *, warm_up: int = 2
) -> dict[str, dict[str, float]]:
    """Seconds of one step by part, for each contender, in turn in this process."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="crucible-profile-") as adapter:
        write_adapter(folder, adapter)
        for name, (contender, dtype) in CONTENDERS.items():
            one = contender(folder, adapter, dtype, datums, "cpu")
            for _ in range(warm_up):
                one.forward_backward()
                one.step()
            with doors_watched(), profile(activities=[ProfilerActivity.CPU]) as watched:
                one.forward_backward()
                one.step()
            found[name] = _by_part(watched.events())
            del one
    return found


@contextmanager
def doors_watched() -> Iterator[None]:
    """Every call of a compiled kernel is an event: where a node computes several, they are no ops
    of torch's. Ops held to a backend are a call each, also where a layer is else one call."""
    doors = {
        name: door
        for name, door in vars(_C).items()
        if callable(door) and name.startswith(tuple(ops.OPS))
    }
    for name, door in doors.items():
        setattr(_C, name, partial(_as_event, f"{_OURS}{name}", door))
    try:
        with ops.using("cpu"):
            yield
    finally:
        for name, door in doors.items():
            setattr(_C, name, door)


def _as_event(name: str, door: Callable[..., Any], *args: Any, **options: Any) -> Any:
    with record_function(name):
        return door(*args, **options)


def _by_part(events: Any) -> dict[str, float]:
    seconds = dict.fromkeys(PARTS, 0.0)
    for name, spent in _spent([event for event in events if event.cpu_parent is None]):
        seconds[part_of(name)] += spent
    return seconds


def _spent(events: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Seconds by op: whole where it is ours, alone elsewhere."""
    for event in events:
        if event.name.startswith(_OURS):
            yield event.name, event.cpu_time_total * 1e-6
        else:
            yield event.name, event.self_cpu_time_total * 1e-6
            yield from _spent(event.cpu_children)


def lines(found: dict[str, dict[str, float]]) -> Iterator[str]:
    """A table of at most 80 columns: seconds and shares of the step."""
    yield f"{'':<19}" + "".join(f"{name:>20}" for name in found)
    sums = {name: sum(seconds.values()) for name, seconds in found.items()}
    for part in PARTS:
        cells = (f"{s[part]:>11.3f} s {s[part] / sums[name]:>6.1%}" for name, s in found.items())
        yield f"{part:<19}" + "".join(cells)
    yield f"{'together':<19}" + "".join(f"{total:>11.3f} s {'':>6}" for total in sums.values())


def main(arguments: list[str] | None = None) -> None:
    """Print the table of a batch, and keep it where --save says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=BATCHES, default=BATCHES[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)

    from crucible_kitchen.adapters.local.models import prepare_model
    from crucible_kitchen.adapters.wheel import HubClient

    folder = str(prepare_model("smollm2-135m", HubClient()))
    found = measure(folder, batch(given.kind, folder, rows=4, length=512))
    print("\n".join(lines(found)))
    if given.save is not None:
        where = {**machine("cpu"), "threads": str(given.threads)}
        path = (
            given.save / slug(where["device"]) / f"step_profile-{given.kind}-{given.threads}t.json"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": where, "seconds": found}, indent=1) + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
