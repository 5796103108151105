"""``crucible bench``: our kernels beside what others take for the same work, on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from crucible_kitchen.errors import ConfigError

HELP = "time the kernels on this machine, beside what others take"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time, or step; all the ops")
    parser.add_argument("--size", action="append", default=[], help="a size by name; may repeat")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the ops, float32; of a step, float32 and bfloat16",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda if there is one")
    parser.add_argument("--threads", type=int, default=1, help="of the processor; 1")
    parser.add_argument("--samples", type=int, help="of each call; 20, of a step 5")
    parser.add_argument("--model", default="smollm2-135m", help="of a step; smollm2-135m")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "process"],
        help="process counts what this process computed: for a machine with other work",
    )
    parser.add_argument("--save", metavar="FOLDER", help="also write the figures there, as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Measure; a kernel that computes wrong values is an error and is not timed."""
    for name in ("threads", "samples"):
        if (given := getattr(arguments, name)) is not None and given < 1:
            raise ConfigError(f"--{name} must be at least 1, got {given}")
    if arguments.threads > (os.cpu_count() or 1):
        raise ConfigError(f"--threads must be at most {os.cpu_count()}, got {arguments.threads}")
    wanted = [name for name in arguments.ops if name != "step"]
    if wanted or not arguments.ops:
        _ops(wanted, arguments)
    if "step" in arguments.ops:
        _step(arguments)
    return 0


def _device(arguments: argparse.Namespace) -> str:
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device == "cuda" and found != "cuda":
        raise ConfigError("--device must be cpu here: torch finds no CUDA device")
    return arguments.device or found


def _ops(wanted: list[str], arguments: argparse.Namespace) -> None:
    from crucible_kitchen import ops
    from crucible_kitchen.benchmarks.run import Options, run

    options = Options(
        sizes=arguments.size,
        dtype=arguments.dtype or "float32",
        device=_device(arguments),
        threads=arguments.threads,
        samples=arguments.samples or 20,
        clock=arguments.clock,
        save=_folder(arguments),
    )
    run(wanted or list(ops.OPS), options)


def _step(arguments: argparse.Namespace) -> None:
    from crucible_kitchen.benchmarks import step

    dtypes = (arguments.dtype,) if arguments.dtype else step.DTYPES
    if not set(dtypes) <= set(step.DTYPES):
        known = " or ".join(step.DTYPES)
        raise ConfigError(f"--dtype of a step must be {known}, got {arguments.dtype}")
    step.run(
        step.StepOptions(
            model=arguments.model,
            dtypes=dtypes,
            threads=arguments.threads,
            samples=arguments.samples or 5,
            clock=arguments.clock,
            device=_device(arguments),
            save=_folder(arguments),
        )
    )


def _folder(arguments: argparse.Namespace) -> Path | None:
    return Path(arguments.save) if arguments.save else None
