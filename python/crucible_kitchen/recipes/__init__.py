"""Recipes: what to train, as data, and the workflow it fills."""

from __future__ import annotations

import sys
from types import ModuleType

from ._calibration import measure
from ._config import Recipe, RecipeConfig
from ._describe import describe
from ._table import RECIPES, find_recipe
from ._target import Target, find_target
from ._yaml import parse
from .dpo import DPO
from .reward_modeling import RewardModeling
from .supervised_fine_tuning import SupervisedFineTuning


class _CallableModule(ModuleType):
    """``ck.recipes`` is this module, and ``ck.recipes()`` lists what is in it."""

    def __call__(self) -> dict[str, str]:
        """Every recipe's name and what it does."""
        return {name: recipe.description for name, recipe in RECIPES.items()}


sys.modules[__name__].__class__ = _CallableModule


__all__ = [
    "DPO",
    "RECIPES",
    "Recipe",
    "RecipeConfig",
    "RewardModeling",
    "SupervisedFineTuning",
    "Target",
    "describe",
    "find_recipe",
    "find_target",
    "measure",
    "parse",
]
