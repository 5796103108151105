"""YAML as users write it in recipe files and on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crucible_kitchen.errors import ConfigError, did_you_mean

_KEYS = ("recipe", "config", "adapters", "run_dir")


class _Loader(yaml.SafeLoader):
    """The safe loader, but ``2e-5`` is a number: YAML 1.1 wants ``2.0e-5``."""


_Loader.yaml_implicit_resolvers = {
    key: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def parse(text: str, where: str) -> Any:
    """A YAML document.

    Args:
        text: the document.
        where: what to name in an error.
    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML: {said}") from error


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and what to tell it, from a file.

    Args:
        recipe: name of the recipe.
        config: its configuration.
        adapters: port -> name of an adapter, or ``{name: ..., option: value}``.
        run_dir: the run's folder, None for the default.
    """

    recipe: str
    config: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, Any] = field(default_factory=dict)
    run_dir: str | None = None


def read_recipe_file(path: Path) -> RecipeFile:
    """A recipe file: ``recipe``, and if need be ``config``, ``adapters`` and ``run_dir``.

    Raises:
        ConfigError: it cannot be read, is not YAML, or has other keys or kinds of values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    content = parse(text, str(path))
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold keys {', '.join(_KEYS)}, got {content!r:.60}")
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}; {did_you_mean(str(key), _KEYS)}")
    wanted = {"recipe": str, "config": dict, "adapters": dict, "run_dir": str}
    for key, kind in wanted.items():
        value = content.get(key)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(
                f"{path}: {key} must be {'text' if kind is str else 'a mapping'}, got {value!r:.60}"
            )
    if not content.get("recipe"):
        raise ConfigError(f"{path}: recipe must be given, such as `recipe: sft`")
    return RecipeFile(
        content["recipe"],
        dict(content.get("config") or {}),
        dict(content.get("adapters") or {}),
        content.get("run_dir"),
    )
