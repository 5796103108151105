"""Those who listen to a run, by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crucible_kitchen.engine.events import Handler
from crucible_kitchen.errors import ConfigError, did_you_mean

HANDLERS = ("console", "jsonl")


def make_handlers(given: Iterable[str | Handler], run_dir: Path | None) -> list[Handler]:
    """Handlers from names and callables.

    Args:
        given: ``"console"``, ``"jsonl"`` or callables.
        run_dir: where ``"jsonl"`` writes ``events.jsonl``.
    Raises:
        ConfigError: a name is unknown, or ``"jsonl"`` has no folder.
    """
    if isinstance(given, str):
        given = (given,)
    return [_make(one, run_dir) for one in given]


def _make(given: str | Handler, run_dir: Path | None) -> Handler:
    if given == "console":
        from .console import Console

        return Console()
    if given == "jsonl":
        from .jsonl import JsonLines

        if run_dir is None:
            raise ConfigError('handlers: "jsonl" needs a run_dir to write events.jsonl into')
        return JsonLines(run_dir / "events.jsonl")
    if isinstance(given, str):
        raise ConfigError(f"handlers: no handler {given!r}; {did_you_mean(given, HANDLERS)}")
    if not callable(given):
        raise ConfigError(f"handlers: a handler must be a name or a callable, got {given!r}")
    return given
