"""A plan held to the run it is of, part by part."""

from __future__ import annotations

import json

import pytest

from crucible_kitchen.benchmarks import plan
from crucible_kitchen.testing.tiny_model import tiny_llama


def test_the_parts_of_a_plan_are_those_of_its_run(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))  # it is set anew, and put back
    monkeypatch.setattr(plan, "_apart", lambda work, *arguments: work(*arguments))
    words = [f"model={tiny_llama(tmp_path / 'model')}", "max_steps=3", "eval_rows=4", "samples=1"]
    plan.main(["sft", *words, "--save", str(tmp_path / "results")])
    (path,) = (tmp_path / "results").rglob("plan.json")
    (figures,) = json.loads(path.read_text())["figures"]
    for part in ("set up", "train", "evaluate", "sample", "save", "total", "memory_bytes"):
        assert figures["planned"][part] > 0, part
        assert figures["took"][part] > 0, part
    # The peak is of the one process that does both here: how near it is, plan.py itself tells.
    assert figures["ratio"]["memory_bytes"] == pytest.approx(1, abs=0.5)
    printed = capsys.readouterr().out
    assert "memory_byt" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80
