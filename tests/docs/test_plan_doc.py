"""The page on plans and steps, followed in an empty folder: blocks print what stands beneath."""

from __future__ import annotations

import io
import re
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plan.md"
BLOCK = re.compile(
    r"^`(?P<name>[\w.]+)`\n```python\n(?P<code>.*?)^```\n(?:```text\n(?P<said>.*?)^```\n)?",
    re.M | re.S,
)

# Two of its stages wait for the same one and not for each other: either may come first.
UNORDERED = "steps.py"


def test_every_block_prints_what_the_page_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "kitchen", raising=False)
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) == len(re.findall("^```python", PAGE.read_text(), re.M)) == 5
    try:
        for block in blocks:
            Path(block["name"]).write_text(block["code"])
            out = io.StringIO()
            with redirect_stdout(out):
                runpy.run_path(block["name"], run_name="__main__")
            got, want = out.getvalue(), block["said"] or ""
            if block["name"] == UNORDERED:
                got, want = sorted(got.splitlines()), sorted(want.splitlines())
            assert got == want, block["name"]
    finally:
        sys.modules.pop("kitchen", None)


def test_what_the_page_shows_of_the_command_is_what_it_prints() -> None:
    shown = re.search(r"^```\n\$ crucible plan.*?^```", PAGE.read_text(), re.M | re.S)
    assert shown
    from crucible_kitchen.graph.plan import Estimate
    from crucible_kitchen.graph.plan_text import _estimate

    parts = {"set up": 4.1, "train": 1812.0, "evaluate": 56.0, "sample": 9.0, "save": 0.5}
    printed = list(_estimate(Estimate(750, 412_300, parts, 2_920_000_000, 4)))
    for line in (printed[0], printed[-3], printed[-2]):
        assert line in shown[0]


@pytest.mark.parametrize("name", ["cache", "after", "retry"])
def test_options_that_the_page_names_exist(name) -> None:
    from crucible_kitchen.graph.stage_options import OPTIONS

    assert name in OPTIONS
