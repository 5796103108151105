"""The curves of a whole run: taken, drawn and written."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from crucible_kitchen.benchmarks import curves
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.mark.parametrize("recipe", ["sft", "reward"])
def test_a_run_gives_its_curves(recipe, tmp_path) -> None:
    given = {"model": tiny_llama(tmp_path / "model"), "max_steps": 3, "eval_rows": 4}
    found, picture = curves.whole_run(recipe, given)
    assert [step for step, _ in found["curves"]["loss"]] == [1, 2, 3]
    assert [step for step, _ in found["curves"]["eval_loss"]] == [0, 3]
    assert ("eval_accuracy" in found["curves"]) == (recipe == "reward")
    texts = [one.text for one in ElementTree.fromstring(picture).iter() if one.text]
    assert "held-out" in texts
    assert ("Accuracy" in texts) == (recipe == "reward")

    path = curves.save(tmp_path / "results", found, picture)
    assert path.name == f"curve-{recipe}.json"
    written = json.loads(path.read_text())
    assert written["curves"] == found["curves"]
    assert written["machine"]["torch"]
    assert path.with_suffix(".svg").read_text() == picture
