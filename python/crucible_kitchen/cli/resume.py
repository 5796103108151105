"""``crucible resume``: go on with a run that was stopped, from its last checkpoint."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from crucible_kitchen import bootstrap, report

from ._arguments import read_config
from .run import Progress, summary

HELP = "go on with a run that was stopped"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run_dir", help="the run's folder")
    parser.add_argument(
        "config",
        nargs="*",
        metavar="key=value",
        help="configuration that is to differ; needs --allow-changed",
    )
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="go on even where workflow, configuration or adapters are not those of before",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the folder, at the end")


def main(arguments: argparse.Namespace) -> int:
    """Go on with it."""
    changes = read_config(arguments.config)
    follows = int(os.environ.get("RANK", "0")) > 0  # of `torchrun`: the first process speaks
    result = bootstrap.run(
        config=report.config_of(Path(arguments.run_dir), changes) if changes else None,
        resume=arguments.run_dir,
        allow_changed=arguments.allow_changed,
        handlers=() if arguments.quiet or follows else (Progress(),),
    )
    if follows:
        return 0
    print(result.run_dir if arguments.quiet else summary(result))
    return 0
