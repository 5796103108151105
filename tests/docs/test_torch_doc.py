"""Every Python block of the page on torch code runs, in its order, and prints what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from crucible_kitchen.integrations.patching import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "torch.md").read_text()


def test_the_blocks_run_and_the_report_is_the_one_shown(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) >= 5
    (tmp_path / "page.py").write_text("\n".join(blocks))
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [shown] = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
    assert re.sub(r"\((cuda|triton)\)", "(cpu)", done.stdout).startswith(shown)
    assert "lora_linear: " in done.stdout


def test_it_names_every_architecture_and_every_example() -> None:
    assert [name for name in ARCHITECTURES if f"`{name}`" not in PAGE] == []
    examples = {path.name for path in (ROOT / "examples").glob("drop_in_*.py")}
    assert set(re.findall(r"`examples/(drop_in_\w+\.py)`", PAGE)) == examples
