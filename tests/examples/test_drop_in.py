"""The examples for torch code are short, run on a tiny model, and learn."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("drop_in_*.py"))


@pytest.mark.filterwarnings("ignore")  # of the libraries that they use
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_drop_in(
    path: Path,
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = path.read_text()
    assert len(code.splitlines()) < 40
    for library in ("trl", "lightning", "accelerate", "peft", "datasets"):
        if f"import {library}" in code or f"from {library} " in code:
            pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), tiny_model])
    # In this process: most of an example's time is the import of its libraries.
    runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"\bloss'?:? '?(\d+\.\d+)", said)]
    assert len(losses) >= 4, said
    assert losses[-1] < losses[0]
    assert "our kernels compute" in said or "lora_linear: cpu runs" in said
    assert not [p for p in tmp_path.iterdir() if p.name != "lightning_logs"]


def test_they_are_all_there() -> None:
    assert len(EXAMPLES) == 6
    assert importlib.util.find_spec("peft") is not None
