"""Times ops on this machine: what `crucible bench` runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crucible_kitchen import ops
from crucible_kitchen.errors import ConfigError, did_you_mean

from . import roofline, table
from .measure import Figures, measure
from .problem import Problem, named_sizes, sizes_of
from .timing import machine, slug

BACKENDS = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}


@dataclass(frozen=True)
class Options:
    """How to measure.

    Args:
        sizes: names of sizes; all that suit the device if empty.
        dtype: of the inputs: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        threads: of torch and of our kernels.
        samples: of each call.
        clock: ``wall``, or ``process`` on a machine that does other work too.
        save: folder for the figures as JSON, below the device's name; None keeps none.
    """

    sizes: Sequence[str] = ()
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    samples: int = 20
    clock: str = "wall"
    save: Path | None = None


def run(names: Sequence[str], options: Options, say: Callable[[str], None] = print) -> None:
    """Measure ops, one table each, said as they come.

    Raises:
        ConfigError: an op or a size that there is not.
        WrongResult: one of our kernels is wrong; nothing is timed after it.
    """
    problems = {name: _problems(name, options) for name in names}
    torch.set_num_threads(options.threads)
    where = machine(options.device)
    say("  ".join((where["device"], f"threads {options.threads}", f"torch {where['torch']}")))
    peak = roofline.measure(
        options.device, getattr(torch, options.dtype), clock=options.clock, samples=options.samples
    )
    say(f"measured peak {peak}")
    say(f"{options.clock} time, {options.samples} samples in turn; ratio: their time over ours")
    for name, mine in problems.items():
        found: list[Figures] = []
        for problem in mine:
            figures = measure(
                problem,
                BACKENDS[options.device],
                peak,
                samples=options.samples,
                clock=options.clock,
            )
            found.append(figures)
            say("\n" + "\n".join(table.lines(figures)))
        if overall := table.summary(name, found):
            say(overall)
        if options.save is not None:
            path = save(options.save, name, where, peak, found, options)
            say(f"written: {path}")


def save(
    folder: Path,
    name: str,
    where: dict[str, str],
    peak: roofline.Peak,
    found: Sequence[Figures],
    options: Options,
) -> Path:
    """Write figures as JSON, one file an op, dtype and number of threads."""
    target = folder / slug(where["device"])
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}-{options.dtype}-{options.threads}t.json"
    content = {
        "machine": where,
        "peak": {"flops": peak.flops, "bytes": peak.bytes},
        "figures": [figures.as_json() for figures in found],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _problems(name: str, options: Options) -> list[Problem]:
    if name not in ops.OPS:
        raise ConfigError(f"bench: no op {name!r}; {did_you_mean(name, (*ops.OPS, 'step'))}")
    dtype = getattr(torch, options.dtype)
    sizes = sizes_of(name, options.device, dtype)
    if options.sizes:
        known = named_sizes(name)
        for size in options.sizes:
            if size not in known:
                raise ConfigError(
                    f"bench: {name} has no size {size!r}; {did_you_mean(size, known)}"
                )
        sizes = {size: known[size] for size in options.sizes}
    return [Problem(name, key, size, dtype, options.device) for key, size in sizes.items()]
