"""What a run will take, reckoned from a few steps, against what it took."""

from __future__ import annotations

import json
import os
import time

import pytest
import torch  # noqa: F401 - which otherwise the first of plan and run would wait for, and not both

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.cli import main
from crucible_kitchen.errors import ConfigError, StageError
from crucible_kitchen.graph import validate
from crucible_kitchen.recipes import RECIPES
from crucible_kitchen.testing.tiny_model import tiny_llama

STEP_S, TOKEN_S, EVAL_TOKEN_S, ANSWER_S = 0.02, 1e-4, 3e-5, 0.03


class Slow(noop.TrainingClient):
    """Takes a time that is known."""

    def forward_backward(self, session, datums, *rest):
        time.sleep(TOKEN_S * sum(datum.model_input.length for datum in datums))
        return super().forward_backward(session, datums, *rest)

    def forward(self, session, datums, *rest):
        time.sleep(EVAL_TOKEN_S * sum(datum.model_input.length for datum in datums))
        return super().forward(session, datums, *rest)

    def forward_backward_custom(self, session, datums, fn):
        time.sleep(TOKEN_S * sum(datum.model_input.length for datum in datums))
        return super().forward_backward_custom(session, datums, fn)

    def score(self, session, datums):
        time.sleep(EVAL_TOKEN_S * sum(datum.model_input.length for datum in datums))
        return super().score(session, datums)

    def optim_step(self, session, params):
        time.sleep(STEP_S)
        return super().optim_step(session, params)


class SlowCompleter(noop.Completer):
    def complete(self, messages, **options):
        time.sleep(ANSWER_S)
        return super().complete(messages, **options)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Rows of very different lengths; no answer of a reference is kept from an earlier test."""
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    rows = []
    for n in range(120):
        answer = f"It is {n}. " * (n * 7 % 40 + 1)
        other = {"chosen": answer, "rejected": "no" + "!" * (n * 3 % 20)}
        rows.append({"prompt": f"What is {n}?", "completion": answer, **other})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"model": "none", "dataset": str(path), "epochs": 2, "eval_every": 15, "eval_rows": 24}


@pytest.mark.parametrize("recipe", RECIPES)
def test_time_is_reckoned_within_a_fifth(recipe, config, tmp_path) -> None:
    adapters = {"training_client": Slow(), "completer": SlowCompleter()}
    if recipe == "reward":
        del adapters["completer"]
    config |= {"epochs": 1}
    estimate = ck.plan(recipe, config, adapters, calibrate=True).estimate
    result = ck.run(recipe, config, adapters, run_dir=tmp_path / "run", handlers=())
    assert estimate is not None
    assert estimate.steps == result.context.state.step == 24
    tokens = sum(record.value for record in result.metrics.history("tokens"))
    assert estimate.tokens == pytest.approx(tokens, rel=0.02)
    assert estimate.total_s == pytest.approx(result.duration_s, rel=0.2)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"epochs": 3, "max_steps": 1000}, 72),
        ({"epochs": 1, "gradient_accumulation": 3}, 8),
        ({"max_steps": 3, "eval_rows": 0, "save_every": 2}, 3),
    ],
)
def test_steps_are_those_of_the_run(config, options, steps) -> None:
    given = {**config, "epochs": None, **options}
    adapters = {"training_client": noop.TrainingClient()}
    estimate = ck.plan("sft", given, adapters, calibrate=True).estimate
    assert estimate is not None
    assert estimate.steps == steps
    assert set(estimate.seconds) == {"set up", "train", "evaluate", "sample", "save"}
    assert (estimate.seconds["evaluate"] > 0) == bool(given["eval_rows"])


def test_a_real_model_is_loaded_and_left_alone(config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir())
    model = tiny_llama(tmp_path / "model")
    given = {**config, "model": model, "max_steps": 6, "epochs": None, "sample_tokens": 4}
    made = ck.plan("sft", given, calibrate=True)
    assert made.estimate is not None
    assert made.estimate.steps == 6
    assert made.estimate.memory_bytes > 100e6
    assert made.estimate.seconds["sample"] > 0
    assert set(os.listdir()) - before == {"model"}
    assert f"{made.estimate.memory_bytes / 1e9:.2f} GB at most" in str(made)


def test_what_would_fail_in_the_run_fails_in_the_calibration(config) -> None:
    with pytest.raises(StageError, match="calibration/load_data"):
        ck.plan("sft", {**config, "eval_rows": 120}, {"training_client": "noop"}, calibrate=True)


def test_only_recipes_with_a_calibration_have_one() -> None:
    @ck.stage
    def idle() -> None: ...

    with pytest.raises(ConfigError, match="w has no calibration"):
        ck.plan(ck.workflow("w")[idle], calibrate=True)
    assert ck.plan(ck.workflow("w")[idle]).estimate is None


@pytest.mark.parametrize("recipe", [r for r in RECIPES.values() if r.calibration is not None])
def test_calibrations_are_whole_workflows(recipe) -> None:
    config = recipe.Config.parse({}, recipe=recipe.name)
    validate(recipe.calibration, config)


def test_the_command_calibrates_unless_told_not_to(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["model=none", "dataset=sums", "max_steps=2", "--adapters", "noop"]
    assert main(["plan", "sft", *short]) == 0
    out = capsys.readouterr().out
    assert "steps     2, of " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["plan", "sft", *short, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"]["steps"] == 2
    assert main(["plan", "sft", *short, "--no-calibrate"]) == 0
    assert "steps     2" not in capsys.readouterr().out
    assert os.listdir() == []
