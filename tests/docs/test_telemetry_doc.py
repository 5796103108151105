"""Every Python block of the page on telemetry runs, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.engine.events import KINDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"


def test_the_blocks_run(tmp_path: Path) -> None:
    for library in ("opentelemetry.sdk", "prometheus_client"):
        pytest.importorskip(library, reason="pip install 'crucible-kitchen[telemetry]'")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) >= 6
    (tmp_path / "page.py").write_text("\n".join(blocks))
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_names_every_kind_of_event() -> None:
    cells = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(), re.M)
    assert set(re.findall(r"`([a-z.]+)`", " ".join(cells))) == set(KINDS)
