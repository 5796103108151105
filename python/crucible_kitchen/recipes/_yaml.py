"""YAML as users write it on the command line, and in files that say what to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.graph import Workflow
from crucible_kitchen.graph.text import FIELDS, parse_json, workflow_of
from crucible_kitchen.graph.text.yaml_text import parse_yaml

_WITH = ("config", "adapters", "run_dir")
_RECIPE = ("recipe", *_WITH)


def parse(text: str, where: str) -> Any:
    """A YAML document.

    Args:
        text: the document.
        where: what to name in an error.
    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error


@dataclass(frozen=True)
class RunFile:
    """A recipe or a workflow, and what to tell it, from a file.

    Args:
        recipe: name of the recipe, empty where there is a workflow.
        workflow: None where there is a recipe.
        config: its configuration.
        adapters: port -> name of an adapter, or ``{name: ..., option: value}``.
        run_dir: the run's folder, None for the default.
    """

    recipe: str = ""
    workflow: Workflow | None = None
    config: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, Any] = field(default_factory=dict)
    run_dir: str | None = None


def read_run_file(path: Path) -> RunFile:
    """A file with ``recipe`` or ``workflow``; ``config``, ``adapters`` and ``run_dir`` if need be.

    Raises:
        ConfigError: it cannot be read, is not YAML (or JSON, where its name says so), or has other
            keys or kinds of values.
        WorkflowError: the workflow in it is wrong; with every problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    json = path.suffix == ".json"
    content = _parse_json(text, path) if json else parse(text, str(path))
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold keys {', '.join(_RECIPE)}, got {content!r:.60}")
    known = (*FIELDS, *_WITH) if _is_workflow(content) else _RECIPE
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}; {did_you_mean(str(key), known)}")
    _check_kinds(content, path)
    given: dict[str, Any] = {
        "config": dict(content.get("config") or {}),
        "adapters": dict(content.get("adapters") or {}),
        "run_dir": content.get("run_dir"),
    }
    if _is_workflow(content):
        lined: Any = content if json else parse_yaml(text, lines=True)
        for key in _WITH:
            lined.pop(key, None)
        return RunFile(workflow=workflow_of(lined, str(path)), **given)
    if not content.get("recipe"):
        raise ConfigError(f"{path}: recipe must be given, such as `recipe: sft`")
    return RunFile(content["recipe"], **given)


def _parse_json(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error


def _is_workflow(content: Mapping[str, Any]) -> bool:
    return "workflow" in content or "body" in content


def _check_kinds(content: Mapping[str, Any], path: Path) -> None:
    wanted = {"recipe": str, "config": dict, "adapters": dict, "run_dir": str}
    for key, kind in wanted.items():
        value = content.get(key)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"{path}: {key} must be {'text' if kind is str else 'a mapping'}, got {value!r:.60}"
            )
