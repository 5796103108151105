"""``crucible export``: what a run has trained, in a form that other programs load."""

from __future__ import annotations

import argparse

from . import _trained

HELP = "write what a run has trained for PEFT, transformers or llama.cpp"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("source", help="folder of a run, or of LoRA weights")
    parser.add_argument(
        "--format",
        choices=("peft", "merged", "gguf"),
        default="peft",
        help="LoRA weights alone; one model for transformers; one file for llama.cpp",
    )
    parser.add_argument("--out", required=True, help="new folder to write")
    parser.add_argument(
        "--dtype", help="of the weights: float32, bfloat16, float16; of gguf also q8_0"
    )
    parser.add_argument("--model", help="model the weights belong to, if it has moved")


def main(arguments: argparse.Namespace) -> int:
    """Write it, and say how near it is to what was trained."""
    done = _trained.export(
        arguments.source,
        arguments.out,
        format=arguments.format,
        dtype=arguments.dtype,
        model=arguments.model,
    )
    print(f"{'written':14} {done.path}  ({done.size / 2**20:.1f} MiB, {done.dtype})")
    print(
        f"{'checked':14} read back, {done.error:.1e} from the trained model "
        f"(up to {done.tolerance:.0e} is let through)"
    )
    return 0
