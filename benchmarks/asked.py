"""What the benchmarks of whole runs are asked on their command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from crucible_kitchen.recipes import RECIPES, parse


class Asked(NamedTuple):
    """Recipes, what they are given, and where figures go.

    Args:
        recipes: those that were named, or all.
        given: configuration, from words such as ``max_steps=3``.
        save: folder for figures, below which the device has one of its own; None keeps none.
    """

    recipes: list[str]
    given: dict[str, Any]
    save: Path | None


def asked(arguments: list[str] | None, description: str) -> Asked:
    """Read ``[RECIPE ...] [key=value ...] [--save FOLDER]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("words", nargs="*", metavar="RECIPE|key=value")
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    found = parser.parse_args(arguments)
    recipes = [word for word in found.words if "=" not in word] or list(RECIPES)
    pairs = (word.split("=", 1) for word in found.words if "=" in word)
    return Asked(recipes, {key: parse(value, key) for key, value in pairs}, found.save)
