"""Every Python block of the page on adapters runs, and the test that it shows passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from crucible_kitchen.bootstrap import ADAPTERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


def test_the_blocks_run_in_their_order_and_the_contract_passes(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 6
    (tmp_path / "test_page.py").write_text("\n".join(blocks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d\d passed", done.stdout), done.stdout


def test_the_table_names_every_adapter() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.read_text(), re.M))
    for port, systems in ADAPTERS.items():
        # A note in brackets may follow a name.
        named = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", rows[port]))
        assert sorted(named) == sorted(systems), f"docs/adapters.md, row {port}"
