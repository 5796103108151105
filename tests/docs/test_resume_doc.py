"""The page on going on, followed in an empty folder: its commands say what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.bootstrap import run
from crucible_kitchen.testing import SamplingClientContract

PAGE = Path(__file__).resolve().parents[2] / "docs" / "resume.md"
BLOCK = re.compile(
    r"^(?:`(?P<name>[\w.]+)`\n)?```(?P<kind>python|bash)\n(?P<code>.*?)^```\n"
    r"(?:```text\n(?P<said>.*?)^```\n)?",
    re.M | re.S,
)
BLOCKS = list(BLOCK.finditer(PAGE.read_text()))


def command(line: str, folder: Path) -> str:
    """What a command of the page prints."""
    program, *arguments = shlex.split(line, comments=True)
    module = ["-m", "crucible_kitchen.cli"] if program == "crucible" else []
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_commands_say_what_the_page_says(tmp_path: Path) -> None:
    # The page's own run takes minutes; one that is as short as can be stands in its place.
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    run(
        "sft",
        {"model": "none", "dataset": str(tmp_path / "rows.jsonl"), "max_steps": 1},
        {"training_client": "noop"},
        run_dir=tmp_path / "runs" / "mine",
        handlers=(),
    )
    followed = 0
    for block in BLOCKS:
        if block["name"]:
            (tmp_path / block["name"]).write_text(block["code"])
        if block["said"] is not None:
            (line,) = block["code"].splitlines()
            assert command(line, tmp_path) == block["said"]
            followed += 1
    assert followed == 3


class TestTheAdapterOfThePage(SamplingClientContract):
    @pytest.fixture
    def adapter(self) -> object:
        names: dict[str, object] = {}
        (code,) = (b["code"] for b in BLOCKS if b["kind"] == "python" and not b["name"])
        exec(code, names)
        return names["Sampler"]()  # type: ignore[operator]

    def test_a_session_is_taken_up(self, adapter, tmp_path: Path) -> None:
        session = adapter.start_session({"model": "m"})
        saved = adapter.save_value(session, tmp_path / "s")
        assert adapter.owns(session)
        assert adapter.load_value(saved, tmp_path / "s").config == session.config
