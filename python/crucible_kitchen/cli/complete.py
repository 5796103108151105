"""``crucible complete``: ask a model, or one that a run has trained."""

from __future__ import annotations

import argparse
import sys

from crucible_kitchen.errors import ConfigError

from . import _trained

HELP = "ask a model, or what a run has trained"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("model", help="folder of a run, of LoRA weights or of a model, or a name")
    parser.add_argument("prompt", nargs="?", help="what to ask; from standard input if left out")
    parser.add_argument("--system", help="a system message before it")
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of the answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest answer")
    parser.add_argument("--seed", type=int, help="makes a temperature above 0 repeatable")
    parser.add_argument(
        "--base", action="store_true", help="the model as it was before the training"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the answer as it is written."""
    prompt = arguments.prompt if arguments.prompt is not None else sys.stdin.read()
    if not prompt.strip():
        raise ConfigError("complete: prompt must not be empty")
    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    if arguments.seed is not None:
        options["seed"] = arguments.seed
    completer = _trained.find_completer(arguments.model, base=arguments.base)
    try:
        for chunk in completer.stream_complete(messages, **options):
            print(chunk.text, end="", flush=True)
        print()
    finally:
        completer.close()
    return 0
