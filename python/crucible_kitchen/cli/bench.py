"""``crucible bench``: our kernels beside what others take for the same work, on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from crucible_kitchen.errors import ConfigError

HELP = "time the kernels on this machine, beside what others take"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time; all of them")
    parser.add_argument("--size", action="append", default=[], help="a size by name; may repeat")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda if there is one")
    parser.add_argument("--threads", type=int, default=1, help="of the processor; 1")
    parser.add_argument("--samples", type=int, default=20, help="of each call; 20")
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
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.threads > (os.cpu_count() or 1):
        raise ConfigError(f"--threads must be at most {os.cpu_count()}, got {arguments.threads}")
    import torch

    from crucible_kitchen import ops
    from crucible_kitchen.benchmarks.run import Options, run

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device == "cuda" and found != "cuda":
        raise ConfigError("--device must be cpu here: torch finds no CUDA device")
    run(
        arguments.ops or list(ops.OPS),
        Options(
            sizes=arguments.size,
            dtype=arguments.dtype,
            device=arguments.device or found,
            threads=arguments.threads,
            samples=arguments.samples,
            clock=arguments.clock,
            save=Path(arguments.save) if arguments.save else None,
        ),
    )
    return 0
