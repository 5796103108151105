"""The table of recipes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from crucible_kitchen.errors import ConfigError, did_you_mean

from ._config import Recipe
from .dpo import DPO
from .reward_modeling import RewardModeling
from .supervised_fine_tuning import SupervisedFineTuning

RECIPES: Final[Mapping[str, type[Recipe]]] = MappingProxyType(
    {recipe.name: recipe for recipe in (SupervisedFineTuning, RewardModeling, DPO)}
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
