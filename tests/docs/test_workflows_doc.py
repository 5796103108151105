"""The page on workflows, followed in an empty folder: every block prints what stands beneath it."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from crucible_kitchen.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"
BLOCK = re.compile(
    r"^(?:`(?P<name>[\w.]+)`\n)?```(?P<kind>\w+)\n(?P<code>.*?)^```\n"
    r"(?:```text\n(?P<said>.*?)^```\n)?",
    re.M | re.S,
)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "100")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # the page's own, whose names others may use
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_block_prints_what_the_page_says(empty_folder: Path) -> None:
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) >= 11
    assert len(re.findall("^```text", PAGE.read_text(), re.M)) == sum(
        block["said"] is not None for block in blocks
    )
    for block in blocks:
        name = block["name"]
        if name:
            Path(name).write_text(block["code"])
        if block["kind"] == "bash":
            said = "".join(_command(line) for line in block["code"].splitlines())
        elif block["kind"] == "python":
            said = _program(name, empty_folder)
        else:
            continue
        assert said == (block["said"] or ""), f"{name or block['code']} prints\n{said}"
    assert Path("flow.html").stat().st_size > 5000


def _program(name: str, folder: Path) -> str:
    """What a program prints, and the last line of its error as Python shows it."""
    out = io.StringIO()
    with redirect_stdout(out):
        try:
            runpy.run_path(name, run_name="__main__")
        except Exception as error:  # noqa: BLE001 - shown, and compared
            out.write("".join(traceback.format_exception_only(error)))
    return out.getvalue().replace(f"{folder}/", "")


def _command(line: str) -> str:
    program, *arguments = shlex.split(line)
    assert program == "crucible"
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(arguments)
    assert code == 0, out.getvalue()
    return re.sub(r"done in [\d.]+ s", "done in 0.1 s", out.getvalue())  # whatever the machine does
