"""``crucible list``: what there is to run, and the adapters of each port."""

from __future__ import annotations

import argparse

from crucible_kitchen.bootstrap import ADAPTERS
from crucible_kitchen.recipes import RECIPES

HELP = "list the recipes, and the adapters of each port"


def add(parser: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def main(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    print("recipes")
    for name, recipe in RECIPES.items():
        print(f"  {name:<16} {recipe.description}")
    print("\nadapters")
    for port, systems in ADAPTERS.items():
        print(f"  {port:<16} {', '.join(systems)}")
    return 0
