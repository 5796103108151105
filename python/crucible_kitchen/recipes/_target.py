"""What a user may ask to run: a recipe, a workflow, or a file that says which."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import Workflow, as_workflow

from ._config import Recipe, RecipeConfig
from ._table import find_recipe
from ._yaml import RunFile, read_run_file


@dataclass(frozen=True)
class Target:
    """What to run.

    Args:
        name: of the recipe or workflow.
        workflow: what runs.
        recipe: None for a bare workflow.
        config, adapters, run_dir: from a file.
    """

    name: str
    workflow: Workflow
    recipe: type[Recipe] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, Any] = field(default_factory=dict)
    run_dir: str | None = None

    def configured(self, config: Any) -> RecipeConfig | Mapping[str, Any] | Any:
        """The configuration of a run: checked, and joined to that of the file.

        Raises:
            ConfigError: unknown keys or wrong values, all of them.
        """
        if self.config and isinstance(config, Mapping | None):
            config = {**self.config, **(config or {})}
        if self.recipe is None:
            return {} if config is None else config
        return self.recipe.Config.parse(config, recipe=self.name)


def find_target(target: object) -> Target:
    """A recipe or its name, a workflow or its class, or the path of a file that holds either.

    Raises:
        ConfigError: it is none of these.
        WorkflowError: the workflow in the file is wrong.
    """
    if isinstance(target, type) and issubclass(target, Recipe):
        return Target(target.name, as_workflow(target.workflow), target)
    if isinstance(target, str | os.PathLike):
        path = Path(target)
        if path.suffix in (".yaml", ".yml", ".json"):
            return _of_file(read_run_file(path))
        recipe = find_recipe(str(target))
        return Target(recipe.name, as_workflow(recipe.workflow), recipe)
    try:
        workflow = as_workflow(target)
    except TypeError as error:
        raise ConfigError(
            "run: target must be a recipe or its name, a workflow, or the path of a YAML file, "
            f"got {target!r:.80}"
        ) from error
    return Target(workflow.name, workflow)


def _of_file(content: RunFile) -> Target:
    given = (content.config, content.adapters, content.run_dir)
    if content.workflow is not None:
        return Target(content.workflow.name, content.workflow, None, *given)
    recipe = find_recipe(content.recipe)
    return Target(recipe.name, as_workflow(recipe.workflow), recipe, *given)
