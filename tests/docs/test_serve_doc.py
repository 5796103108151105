"""The page on the server: its commands and programs run as they stand, on a tiny model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.testing.tiny_model import tiny_llama

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


def test_the_programs_run_against_what_the_command_starts(tmp_path: Path) -> None:
    """A folder of the model's name is what the command finds by it."""
    pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[serve,tinker]'")
    pytest.importorskip("uvicorn", reason="pip install 'crucible-kitchen[serve,tinker]'")
    text = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (command,) = re.findall(r"^\$ crucible (serve .*)$", text, re.M)
    assert len(blocks) == 2
    tiny_llama(tmp_path / "smollm2-135m")
    here = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = [sys.executable, "-m", "crucible_kitchen.cli", *command.split(), "--port", "0"]
    server = subprocess.Popen(started, cwd=tmp_path, env=here, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        exports = [server.stdout.readline().strip() for _ in range(2)]
        assert exports[1] in text, "the page shows what the command prints"
        here |= dict(line.removeprefix("export ").split("=", 1) for line in exports)
        assert {"TINKER_BASE_URL", "TINKER_API_KEY"} <= set(here)
        for number, block in enumerate(blocks):
            program = tmp_path / f"program_{number}.py"
            program.write_text(block)
            done = subprocess.run(
                [sys.executable, program],
                cwd=tmp_path,
                env=here,
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            if number == 0:
                *losses, path = done.stdout.split()
                assert len(losses) == 10
                assert float(losses[-1]) < float(losses[0])
                assert path.startswith("tinker://")
    finally:
        server.kill()
        server.communicate()


def test_the_page_names_the_options_of_the_command() -> None:
    from crucible_kitchen.cli import parser

    said = set(re.findall(r"`(--[\w-]+)", PAGE.read_text()))
    (commands,) = (a for a in parser()._actions if hasattr(a, "choices") and a.choices)
    known = {o for a in commands.choices["serve"]._actions for o in a.option_strings}
    assert said <= known
