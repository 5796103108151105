"""`dpo` on the local backend: a tiny model of random weights learns which answers are better."""

from __future__ import annotations

import json
import math
import os

import pytest

import crucible_kitchen as ck
from crucible_kitchen.errors import StageError
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(model, tmp_path, monkeypatch):
    """Pairs whose better answer follows one pattern, so that it shows on pairs never seen."""
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Count from {n}.", "chosen": "one two three", "rejected": "no. I will not"}
        if n % 2
        else {"prompt": f"Refuse {n}.", "chosen": "no. I will not", "rejected": "one two three"}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": model,
        "dataset": str(path),
        "epochs": 4,
        "batch_size": 4,
        "eval_rows": 6,
        "learning_rate": 5e-3,
        "lora_rank": 4,
        "dtype": "float32",
        "samples": 1,
        "sample_tokens": 4,
    }


def train(config, folder):
    return ck.run("dpo", config, run_dir=folder, handlers=())


def history(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_held_out_accuracy_rises_and_held_out_loss_falls(config, tmp_path) -> None:
    result = train(config, tmp_path / "run")
    losses, accuracies = history(result, "eval_loss"), history(result, "eval_accuracy")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-12)
    assert accuracies[0] == 0.0
    assert losses[-1] < 0.4
    assert accuracies[-1] == 1.0
    assert history(result, "eval_margin")[-1] > 0.5
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_the_first_step_from_the_reference_has_loss_ln_2(config, tmp_path) -> None:
    result = train({**config, "max_steps": 1, "lora_dropout": 0.2}, tmp_path / "run")
    assert history(result, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert history(result, "grad_norm")[0] > 1e-3


def test_a_second_run_makes_no_reference_pass_and_gives_the_same(config, tmp_path) -> None:
    config = {**config, "max_steps": 3}
    one, two = train(config, tmp_path / "a"), train(config, tmp_path / "b")
    assert history(one, "reference_answers_computed")[0] > 0
    assert history(two, "reference_answers_computed") == [0]
    for name in ("loss", "margin", "eval_loss"):
        assert history(one, name) == history(two, name)


def test_a_second_run_never_asks_the_client_for_the_reference(
    config, tmp_path, monkeypatch
) -> None:
    from crucible_kitchen.adapters.local import TrainingClient

    asked = []
    forward = TrainingClient.forward

    def counted(self, session, datums, *rest):
        asked.append((session.config.model, len(datums)))
        return forward(self, session, datums, *rest)

    monkeypatch.setattr(TrainingClient, "forward", counted)
    config = {**config, "max_steps": 1, "eval_rows": 0}
    train(config, tmp_path / "a")
    assert sum(count for _, count in asked) == 8, "four pairs of one step"
    asked.clear()
    train(config, tmp_path / "b")
    assert asked == []


def test_a_named_reference_is_asked_once_and_then_remembered(config, tmp_path) -> None:
    other = tiny_llama(tmp_path / "other", seed=5)
    config = {**config, "max_steps": 2}
    own = train(config, tmp_path / "own")
    one = train({**config, "reference_model": other}, tmp_path / "a")
    two = train({**config, "reference_model": other}, tmp_path / "b")
    assert history(one, "reference_answers_computed")[0] > 0
    assert history(two, "reference_answers_computed") == [0]
    assert history(one, "loss") == history(two, "loss")
    assert history(one, "loss")[0] != pytest.approx(math.log(2), abs=1e-3)
    same = train({**config, "reference_model": config["model"]}, tmp_path / "same")
    assert history(same, "reference_answers_computed") == [0], "it is the model's own start"
    assert history(same, "loss") == history(own, "loss")


def test_preferences_can_follow_on_answers_and_the_reference_is_where_they_start(
    config, tmp_path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Count from 1.", "completion": "one two three"}\n' * 4)
    answers = {
        key: value for key, value in config.items() if key in ("model", "dtype", "lora_rank")
    }
    answers |= {"dataset": str(rows), "eval_rows": 0, "max_steps": 2, "learning_rate": 1e-2}
    ck.run("sft", answers, run_dir=tmp_path / "sft", handlers=())
    config = {**config, "max_steps": 2}
    fresh = train(config, tmp_path / "fresh")
    followed = train({**config, "start_from": str(tmp_path / "sft")}, tmp_path / "followed")
    assert history(followed, "loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert history(followed, "reference_answers_computed")[0] > 0, "another start, asked anew"
    names = ("logprobs_chosen", "logprobs_rejected")
    one, other = ([history(run, name)[0] for name in names] for run in (fresh, followed))
    assert one != pytest.approx(other, abs=0.1)
    again = train({**config, "start_from": str(tmp_path / "sft" / "adapter")}, tmp_path / "again")
    assert history(again, "reference_answers_computed") == [0]
    assert history(again, "loss") == history(followed, "loss")


def test_weights_that_do_not_fit_are_refused(config, tmp_path) -> None:
    train({**config, "max_steps": 1}, tmp_path / "first")
    with pytest.raises(StageError, match="does not fit"):
        train({**config, "lora_rank": 8, "start_from": str(tmp_path / "first")}, tmp_path / "run")


def test_another_model_or_precision_is_asked_anew(config, tmp_path) -> None:
    config = {**config, "max_steps": 1}
    first = train(config, tmp_path / "a")
    computed = history(first, "reference_answers_computed")
    other = train({**config, "dtype": "bfloat16"}, tmp_path / "b")
    assert history(other, "reference_answers_computed") == computed
    weights = os.path.join(config["model"], "model.safetensors")
    os.utime(weights, ns=(1, 1))
    changed = train(config, tmp_path / "c")
    assert history(changed, "reference_answers_computed") == computed


def test_micro_batches_change_nothing_but_rounding(config, tmp_path) -> None:
    one = train({**config, "max_steps": 3}, tmp_path / "a")
    cut = train(
        {**config, "max_steps": 3, "batch_size": 1, "gradient_accumulation": 4}, tmp_path / "b"
    )
    assert history(one, "loss") == pytest.approx(history(cut, "loss"), rel=1e-4)
    assert history(one, "grad_norm") == pytest.approx(history(cut, "grad_norm"), rel=1e-3)


@pytest.mark.parametrize("loss_type", ["ipo", "apo_zero", "nca_pair", "sigmoid_norm"])
def test_other_losses_learn_the_preference_too(config, tmp_path, loss_type) -> None:
    result = train({**config, "loss_type": loss_type}, tmp_path / "run")
    assert history(result, "eval_accuracy")[-1] == 1.0
    losses = history(result, "eval_loss")
    assert losses[-1] < losses[0]
