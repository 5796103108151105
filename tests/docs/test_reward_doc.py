"""Every Python block of the page on reward models runs, on a tiny model."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from crucible_kitchen.cli import export
from crucible_kitchen.testing.tiny_model import tiny_llama

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reward.md"


def test_the_blocks_run_in_their_order(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 6
    model = tiny_llama(tmp_path / "tiny")
    (tmp_path / "page.py").write_text("\n".join([f"model = {model!r}", *blocks]))
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_are_understood_and_all_formats_shown() -> None:
    parser = argparse.ArgumentParser()
    export.add(parser)
    lines = re.findall(r"^crucible export ([^#\n]*)", PAGE.read_text(), re.M)
    formats = [parser.parse_args(line.split()).format for line in lines]
    (choices,) = (a.choices for a in parser._actions if a.dest == "format")
    assert formats == list(choices)
