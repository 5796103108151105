"""What a run was asked for, kept in its folder, which is then enough to take it up again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.engine.redact import HIDDEN
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.recipes import Recipe

from .folder import read_run
from .versions import versions


def asked(target: object, config: Any, adapters: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as JSON; what only Python can say is None.

    Args:
        target: as it was given to `run`.
        config: checked.
        adapters: as they were given, without those that a recipe defaults.
    """
    said: str | None = None
    if isinstance(target, str | os.PathLike):
        said = os.fspath(target)
        said = str(Path(said).absolute()) if Path(said).is_file() else said
    elif isinstance(target, type) and issubclass(target, Recipe):
        said = target.name
    if hasattr(config, "model_dump"):
        given = config.model_dump(exclude_unset=True)
    else:
        given = dict(config) if isinstance(config, Mapping) else None
    named = {port: a if isinstance(a, str | Mapping) else None for port, a in adapters.items()}
    return {"target": said, "config": given, "adapters": named}


def asked_before(
    run_dir: Path, target: object, config: Any, adapters: Mapping[str, Any] | None
) -> tuple[object, Any, dict[str, Any]]:
    """Target, configuration and adapters to take up a run with: those given, or those of before.

    Args:
        run_dir: the run's folder.
        target: None for that of before.
        config: None for that of before.
        adapters: those that are to differ, or that only Python can say.
    Raises:
        ConfigError: the folder is no run's, or it cannot tell something that is not given.
    """
    before = _read(run_dir)
    if not before.get("checkpoint"):
        raise ConfigError(f"resume: {run_dir} was run without checkpoints; see checkpoint of run")
    if target is None:
        target = before["target"]
        if target is None:
            raise ConfigError(
                f"resume: the workflow of {run_dir} was made in Python; go on from there, with "
                f"run(workflow, ..., resume={str(run_dir)!r})"
            )
    if config is None:
        config = before["config"]
        if config is None or _has_secret(config):
            what = "a secret" if config else "an object of Python"
            raise ConfigError(f"resume: the configuration of {run_dir} was {what}; pass config")
    chosen = {**before["adapters"], **(adapters or {})}
    for port, one in chosen.items():
        if one is None or _has_secret(one):
            what = "was made in Python" if one is None else "was given a secret"
            raise ConfigError(
                f"resume: the adapter of {port} {what}; pass adapters={{{port!r}: ...}}"
            )
    return target, config, chosen


def config_of(run_dir: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a run was asked for, with some values in place of others.

    Raises:
        ConfigError: the folder does not say it.
    """
    return {**(_read(run_dir)["config"] or {}), **changes}


def identity(run_dir: Path) -> dict[str, Any]:
    """What a run is called, and when it began; with a warning where it goes on with others' code.

    Raises:
        CrucibleError: the folder is no run's.
    """
    about = read_run(run_dir).about
    before, now = about.get("versions", {}), versions()
    changed = [
        f"{name} {before[name]} -> {now.get(name)}"
        for name in before
        if before[name] != now.get(name)
    ]
    if changed:
        said = ", ".join(changed)
        warnings.warn(
            f"{run_dir} was begun with other versions: {said}", RuntimeWarning, stacklevel=3
        )
    return {key: about[key] for key in ("run_id", "started_at")}


def _read(run_dir: Path) -> dict[str, Any]:
    if not run_dir.is_dir():
        raise ConfigError(f"resume: must be the folder of a run, got {str(run_dir)!r}")
    before = read_run(run_dir).about.get("asked")
    if not isinstance(before, dict):
        raise ConfigError(f"resume: {run_dir} does not say what was run; pass it to run(...)")
    return before


def _has_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_secret(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_has_secret(inner) for inner in value)
    return isinstance(value, str) and HIDDEN in value
