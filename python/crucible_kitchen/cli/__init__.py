"""The command line ``crucible``: one file a command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from crucible_kitchen import __version__
from crucible_kitchen.errors import (
    ConfigError,
    CrucibleError,
    StageError,
    WorkflowError,
    did_you_mean,
)

# Command -> its module; a module called `list` would hide the builtin in this one.
COMMANDS: Final = {
    "run": "run",
    "list": "list_all",
    "describe": "describe",
    "validate": "validate",
    "plan": "plan",
    "preview": "preview",
    "resume": "resume",
    "report": "report",
    "complete": "complete",
    "export": "export",
    "doctor": "doctor",
    "bench": "bench",
    "serve": "serve",
}

OK, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command names the nearest one."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{self.format_usage().strip()}")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="crucible",
        description="Fine-tune language models through declared workflows and fused kernels.",
    )
    top.add_argument("--version", action="version", version=f"crucible-kitchen {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        module = _module(name)
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP + ".")
        # Also after the command, where people write it; SUPPRESS keeps the one before it.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS)
        module.add(sub)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if it did what was asked, 1 if it failed, 2 if it was asked wrongly, 130 on Ctrl-C.
    """
    # OpenMP reads it once, when torch loads it. Threads that spin at a join hold a core another
    # process has work for; with both cores of a machine in use, each join then costs a time slice.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        _check_command(given)
        parsed = _parse(given)
        if parsed.command is None:
            parser().print_help()
            return USAGE
        with _plain_warnings(), _modules_from_here():
            code: int = _module(parsed.command).main(parsed)
        return code
    except KeyboardInterrupt as error:
        print("\n".join(["crucible: interrupted", *_notes(error)]), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except CrucibleError as error:
        if debug:
            traceback.print_exc()
        print("\n".join([f"crucible: {message(error)}", *_notes(error)]), file=sys.stderr)
        return USAGE if isinstance(error, ConfigError | WorkflowError) else FAILURE


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Tell a warning as an error is told: without the place in somebody's code."""

    def show(message: Warning | str, *place: object) -> None:
        print(f"crucible: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _modules_from_here() -> Iterator[None]:
    """Find what a workflow file names also in the folder where `crucible` was started."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _module(command: str) -> Any:
    return importlib.import_module(f"crucible_kitchen.cli.{COMMANDS[command]}")


def message(error: CrucibleError) -> str:
    """What to tell a user: where it happened and why, without the place in our code."""
    if isinstance(error, StageError) and isinstance(error.__cause__, CrucibleError):
        return f"{error.stage} failed: {error.__cause__}"
    if isinstance(error, StageError):
        return f"{error}\n--debug shows the traceback"
    return str(error)


def _notes(error: BaseException) -> list[str]:
    """What was added to an error, such as how to go on."""
    return [str(note) for note in getattr(error, "__notes__", ())]


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """The arguments; what has no dash may also stand behind options, where argparse gives up.

    Raises:
        ConfigError: an argument that the command does not take.
    """
    top = parser()
    parsed, left = top.parse_known_args(given)
    words = [word for word in left if not word.startswith("-")]
    left = [word for word in left if word.startswith("-")]
    if hasattr(parsed, "config"):
        parsed.config += words
    elif words and getattr(parsed, "prompt", "") is None:
        parsed.prompt, *more = words
        left += more
    else:
        left += words
    if left:
        top.error(f"unrecognized arguments: {' '.join(left)}")
    return parsed


def _check_command(given: Sequence[str]) -> None:
    first = next((word for word in given if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        raise ConfigError(f"no command {first!r}; {did_you_mean(first, COMMANDS)}")
