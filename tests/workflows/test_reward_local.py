"""`reward` on the local backend: a tiny model of random weights learns to score answers."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file

import crucible_kitchen as ck
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(model, tmp_path):
    """Which answer is better depends on the prompt, and no answer is better for all."""
    path = tmp_path / "pairs.jsonl"
    answers = "one two three", "no. I will not"
    rows = [
        {
            "prompt": f"Refuse {n}." if n % 2 else f"Count {n}.",
            "chosen": answers[n % 2],
            "rejected": answers[1 - n % 2],
        }
        for n in range(32)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": model,
        "dataset": str(path),
        "epochs": 6,
        "batch_size": 4,
        "eval_rows": 8,
        "learning_rate": 5e-3,
        "lora_rank": 4,
        "dtype": "float32",
    }


def train(config, folder):
    return ck.run("reward", config, run_dir=folder, handlers=())


def history(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_held_out_accuracy_rises_and_held_out_loss_falls(config, tmp_path) -> None:
    result = train(config, tmp_path / "run")
    losses, accuracies = history(result, "eval_loss"), history(result, "eval_accuracy")
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[-1] < 0.2
    assert accuracies[0] <= 0.75
    assert accuracies[-1] == 1.0
    assert history(result, "eval_margin")[-1] > 1.0


def test_head_and_update_are_trained_together(config, tmp_path) -> None:
    folder = tmp_path / "run"
    train({**config, "epochs": None, "max_steps": 2, "save_every": 1}, folder)
    first, second = (
        load_file(folder / "checkpoints" / f"step_00000{step}" / "adapter_model.safetensors")
        for step in (1, 2)
    )
    assert "base_model.model.score.weight" in second
    assert all(not first[name].equal(second[name]) for name in second)
    moments = load_file(folder / "checkpoints" / "step_000002" / "optimizer.safetensors")
    assert moments["score.weight.step"].item() == 2


def test_micro_batches_change_nothing_but_rounding(config, tmp_path) -> None:
    config = {**config, "epochs": None, "max_steps": 3}
    one = train(config, tmp_path / "a")
    cut = train({**config, "batch_size": 1, "gradient_accumulation": 4}, tmp_path / "b")
    assert history(one, "loss") == pytest.approx(history(cut, "loss"), rel=1e-4)
    assert history(one, "grad_norm") == pytest.approx(history(cut, "grad_norm"), rel=1e-3)


def test_the_same_seed_gives_the_same_bytes(config, tmp_path) -> None:
    config = {**config, "epochs": None, "max_steps": 3, "lora_dropout": 0.2}
    for name in "ab":
        train(config, tmp_path / name)
    one, two = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "ab"
    )
    assert one == two
