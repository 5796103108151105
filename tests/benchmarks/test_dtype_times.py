"""The benchmark of both dtypes, on a tiny model."""

from __future__ import annotations

import json

import torch

from crucible_kitchen.benchmarks import dtype_times
from crucible_kitchen.testing.tiny_model import tiny_llama


def test_it_asks_both_says_and_saves(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # other tests keep theirs
    model = str(tiny_llama(tmp_path / "tiny"))
    few = ["--drawn", "2", "--samples", "1", "--threads", "1"]
    dtype_times.main(["--model", model, *few, "--save", str(tmp_path / "results")])
    (path,) = (tmp_path / "results").glob("*/dtype_times-1t.json")
    figures = json.loads(path.read_text())["figures"]
    assert [row["tokens"] for row in figures] == [2, 16, 2, 16, 800, 804, 800]
    assert all(row["float32"] > 0 and row["bfloat16"] > 0 for row in figures)
    said = capsys.readouterr().out
    assert said.count("ratio") == len(figures)
    assert f"written: {path}" in said
