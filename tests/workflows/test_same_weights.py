"""Ways of computing the same thing give the same weights: accumulation, recomputed activations."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import crucible_kitchen as ck
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def train(model, tmp_path, monkeypatch):
    """Train sixteen rows of many lengths for two epochs; the weights of the adapter."""
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    answers = [" ".join(["one two three"] * (1 + n % 4)) for n in range(16)]
    rows = [
        {"prompt": f"Count to {n}.", "completion": one, "chosen": one, "rejected": "I will not"}
        for n, one in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(recipe="sft", **config):
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        fixed = {
            "model": model,
            "dataset": str(path),
            "epochs": 2,
            "eval_rows": 0,
            "learning_rate": 1e-3,
            "lora_rank": 4,
            "dtype": "float32",
            "samples": 0,
        }
        ck.run(recipe, {**fixed, **config}, run_dir=folder, handlers=())
        return load_file(folder / "adapter" / "adapter_model.safetensors")

    return train


def distance(one, other) -> float:
    """The norm of the difference of all weights, relative to theirs."""
    assert one.keys() == other.keys()
    flat = [
        torch.cat([weights[name].double().flatten() for name in sorted(one)])
        for weights in (one, other)
    ]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.mark.parametrize("recipe", ["sft", "dpo", "reward"])
def test_eight_rows_at_once_and_two_times_four_train_the_same_weights(train, recipe) -> None:
    whole = train(recipe, batch_size=8)
    assert distance(whole, train(recipe, batch_size=2, gradient_accumulation=4)) < 1e-6
    assert distance(whole, train(recipe, batch_size=1, gradient_accumulation=8)) < 1e-6
    assert distance(whole, train(recipe, batch_size=8, seed=1)) > 1e-3, "it sees a difference"


def test_activations_computed_again_train_the_same_weights_with_dropout_too(train) -> None:
    options = {"batch_size": 4, "lora_dropout": 0.2}
    kept = train(**options)
    assert distance(kept, train(**options, gradient_checkpointing=True)) < 1e-6
    assert distance(kept, train(batch_size=4)) > 1e-4, "dropout matters"


@pytest.mark.parametrize("recipe", ["sft", "dpo", "reward"])
def test_packed_rows_and_rows_one_by_one_train_the_same_weights(train, recipe) -> None:
    # The whole data set is one step either way, so only its cut into passes differs.
    options = {"max_length": 80, "epochs": 3}
    packed = train(recipe, **options, pack_tokens=160, gradient_accumulation=16)
    alone = train(recipe, **options, batch_size=1, gradient_accumulation=16)
    assert distance(packed, alone) < 1e-6
