"""Every Python block of the page on training runs, and its tables name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from crucible_kitchen.data import ORDERS, TRAIN_ON
from crucible_kitchen.ops import DIVERGENCES, DPO_LOSSES
from crucible_kitchen.recipes import DPO, SupervisedFineTuning
from crucible_kitchen.stages._pairs import preference_metrics
from crucible_kitchen.stages.schedules import SCHEDULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def test_the_blocks_run_in_their_order(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 5
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_every_choice_is_named() -> None:
    text = PAGE.read_text()
    for choice in (*TRAIN_ON, *ORDERS, *SCHEDULES, *DIVERGENCES):
        assert f"`{choice}`" in text, choice
    assert len(DPO_LOSSES) == 14, "the page says fourteen"


def first_cells(start: str, end: str) -> set[str]:
    """The names in the first column of the tables of a part of the page."""
    part = PAGE.read_text().split(start)[1].split(end)[0]
    named = re.findall(r"^\| (`.*?`) \|", part, re.M)
    return {key for cell in named for key in re.findall(r"`(\w+)`", cell)}


def test_every_metric_of_preferences_is_explained() -> None:
    told = preference_metrics(np.zeros(2), np.zeros(2), 0.1)
    assert first_cells("## Preferences", "From its own reference") == told.keys()


def test_every_key_that_is_named_exists() -> None:
    keys = first_cells("## Steps", "## Preferences")
    known = {*SupervisedFineTuning.Config.model_fields, *DPO.Config.model_fields}
    assert keys
    assert keys <= known
