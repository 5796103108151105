"""The benchmark of several sessions, on a tiny model."""

from __future__ import annotations

import json

import torch

from crucible_kitchen.benchmarks import sessions
from crucible_kitchen.testing.tiny_model import tiny_llama


def test_it_compares_says_and_saves(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests keep theirs
    model = str(tiny_llama(tmp_path / "tiny"))
    few = ["--sessions", "2", "--lengths", "4", "8", "--samples", "1"]
    sessions.main(["--model", model, *few, "--save", str(tmp_path / "results")])
    (path,) = (tmp_path / "results").glob("*/sessions-float32-1t.json")
    found = json.loads(path.read_text())
    assert [(row["sessions"], row["tokens_each"]) for row in found["figures"]] == [(2, 4), (2, 8)]
    assert all(row["together_s"] > 0 for row in found["figures"])
    assert len(found["mib"]) == 2
    said = capsys.readouterr().out
    assert "2 sessions,   8 tokens each: one by one" in said
    assert f"written: {path}" in said
