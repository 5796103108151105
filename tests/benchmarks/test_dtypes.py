"""Runs in two dtypes beside each other: how far apart their losses are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.benchmarks import curves, dtypes
from crucible_kitchen.testing.tiny_model import tiny_llama


def test_a_run_in_bfloat16_has_the_losses_of_one_in_float32(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes of their own keep seconds and memory apart, which nobody reads here.
    monkeypatch.setattr(dtypes, "_run", lambda recipe, given: curves.whole_run(recipe, given)[0])
    model = tiny_llama(tmp_path / "model")
    words = ["sft", f"model={model}", "max_steps=6", "eval_rows=4", "eval_every=3"]
    dtypes.main([*words, "learning_rate=1e-2", "--save", str(tmp_path / "results")])
    (path,) = (tmp_path / "results").rglob("dtypes-sft.json")
    found = json.loads(path.read_text())
    assert found["given"]["max_steps"] == 6
    assert "dtype" not in found["given"]
    assert {name: by["points"] for name, by in found["apart"].items()} == {
        "loss": 6,
        "eval_loss": 3,
    }
    for name, by in found["apart"].items():
        assert 0 < by["largest"] < 1e-2, f"{name}: bfloat16 trains something else"
        fell = found["curves"][name]["bfloat16"]
        assert fell[-1][1] < fell[0][1] - 10 * by["largest"], f"{name}: nothing was learned"
    assert f"at most {found['apart']['loss']['largest']} nats apart" in capsys.readouterr().out


def test_differences_are_of_the_same_steps() -> None:
    one, other = [[1, 3.0], [2, 2.0], [3, 1.0]], [[1, 3.5], [2, 1.0], [3, 1.0]]
    assert dtypes.apart(one, other) == {"points": 3, "largest": 1.0, "mean": -0.167}
    with pytest.raises(ValueError, match="of the same steps"):
        dtypes.apart(one, [[0, 3.0], *other[1:]])
