"""``crucible report``: write the page of a run again, from what is in its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from crucible_kitchen import report

HELP = "write a run's report.html again"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("run_dir", help="the run's folder")


def main(arguments: argparse.Namespace) -> int:
    """Write it."""
    print(report.write(Path(arguments.run_dir)))
    return 0
