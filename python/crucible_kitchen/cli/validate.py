"""``crucible validate``: everything that can be checked without running."""

from __future__ import annotations

import argparse

from crucible_kitchen import bootstrap

from ._arguments import add_target, read_adapters, read_config

HELP = "check a recipe, its configuration and its adapters, without running"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_target(parser)


def main(arguments: argparse.Namespace) -> int:
    """Check it."""
    config = read_config(arguments.config)
    adapters = read_adapters(arguments.target, arguments.adapters, arguments.adapter)
    bootstrap.validate(arguments.target, config, adapters)
    print(f"{arguments.target}: nothing wrong")
    return 0
