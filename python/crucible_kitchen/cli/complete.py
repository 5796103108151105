"""``crucible complete``: ask a model, or one that a run has trained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

from crucible_kitchen.errors import ConfigError

from . import _trained

HELP = "ask a model, or what a run has trained"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("model", help="folder of a run, of LoRA weights or of a model, or a name")
    parser.add_argument(
        "prompt",
        nargs="?",
        help="what to ask; left out, it is read from standard input, and a terminal is a chat",
    )
    parser.add_argument("--system", help="a system message before it")
    parser.add_argument("--max-tokens", type=int, default=256, help="most tokens of the answer")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest answer")
    parser.add_argument("--seed", type=int, help="makes a temperature above 0 repeatable")
    parser.add_argument(
        "--base", action="store_true", help="the model as it was before the training"
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the answer as it is written; in a terminal and without a prompt, chat."""
    questions = _questions(arguments.prompt)
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    options = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
    if arguments.seed is not None:
        options["seed"] = arguments.seed
    completer = _trained.find_completer(arguments.model, base=arguments.base)
    try:
        for question in questions:
            messages.append({"role": "user", "content": question})
            answer = ""
            for chunk in completer.stream_complete(messages, **options):
                print(chunk.text, end="", flush=True)
                answer += chunk.text
            print()
            messages.append({"role": "assistant", "content": answer})
    finally:
        completer.close()
    return 0


def _questions(prompt: str | None) -> Iterable[str]:
    """What to ask: one prompt, or what is typed into a terminal.

    Raises:
        ConfigError: there is nothing to ask.
    """
    if prompt is None and sys.stdin.isatty():
        return _typed()
    asked = sys.stdin.read() if prompt is None else prompt
    if not asked.strip():
        raise ConfigError("complete: prompt must not be empty")
    return [asked]


def _typed() -> Iterator[str]:
    """Line by line, until the terminal ends (Ctrl-D)."""
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line.strip():
            yield line
