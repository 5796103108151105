"""``crucible plan``: what a run will do, without running it."""

from __future__ import annotations

import argparse
import json

from crucible_kitchen import bootstrap
from crucible_kitchen.recipes import find_target

from ._arguments import add_target, read_adapters, read_config

HELP = "show what a run will do, and how many steps, how long and how much memory it takes"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_target(parser)
    parser.add_argument(
        "--timings", metavar="RUN_DIR", help="folder of an earlier run, for the times of its stages"
    )
    parser.add_argument(
        "--no-calibrate",
        action="store_true",
        help="take no steps to measure time and memory: quick, nothing is loaded",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with every key and edge")


def main(arguments: argparse.Namespace) -> int:
    """Print it."""
    config = read_config(arguments.config)
    adapters = read_adapters(arguments.target, arguments.adapters, arguments.adapter)
    recipe = find_target(arguments.target).recipe
    plan = bootstrap.plan(
        arguments.target,
        config,
        adapters,
        timings=arguments.timings,
        calibrate=not arguments.no_calibrate
        and recipe is not None
        and recipe.calibration is not None,
    )
    print(json.dumps(plan.to_dict(), indent=2) if arguments.json else plan)
    return 0
