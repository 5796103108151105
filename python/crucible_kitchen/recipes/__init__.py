"""Recipes: what to train, as data, and the workflow it fills."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Final, Protocol

from crucible_kitchen.errors import ConfigError, did_you_mean

from ._config import RecipeConfig
from ._yaml import RecipeFile, parse, read_recipe_file
from .supervised_fine_tuning import SupervisedFineTuning


class Recipe(Protocol):
    """What every recipe says of itself.

    Args:
        name: what `run` calls it.
        description: in one sentence.
        Config: its configuration, with defaults.
        required_ports: ports it cannot do without.
        optional_ports: ports it uses where they are there.
        workflow: what it runs.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Config: ClassVar[type[RecipeConfig]]
    required_ports: ClassVar[tuple[str, ...]]
    optional_ports: ClassVar[tuple[str, ...]]
    workflow: ClassVar[Any]


RECIPES: Final[Mapping[str, type[Recipe]]] = MappingProxyType(
    {recipe.name: recipe for recipe in (SupervisedFineTuning,)}
)
"""Every recipe by name."""


def find_recipe(name: str) -> type[Recipe]:
    """The recipe of a name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]


class _CallableModule(ModuleType):
    """``ck.recipes`` is this module, and ``ck.recipes()`` lists what is in it."""

    def __call__(self) -> dict[str, str]:
        """Every recipe's name and what it does."""
        return {name: recipe.description for name, recipe in RECIPES.items()}


sys.modules[__name__].__class__ = _CallableModule


__all__ = [
    "RECIPES",
    "Recipe",
    "RecipeConfig",
    "RecipeFile",
    "SupervisedFineTuning",
    "find_recipe",
    "parse",
    "read_recipe_file",
]
