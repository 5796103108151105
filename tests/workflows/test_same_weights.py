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
def train(model, tmp_path):
    """Train sixteen rows of many lengths for two epochs; the weights of the adapter."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"Count to {n}.", "completion": " ".join(["one two three"] * (1 + n % 4))}
        for n in range(16)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(**config):
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
        ck.run("sft", {**fixed, **config}, run_dir=folder, handlers=())
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


def test_eight_rows_at_once_and_two_times_four_train_the_same_weights(train) -> None:
    whole = train(batch_size=8)
    assert distance(whole, train(batch_size=2, gradient_accumulation=4)) < 1e-6
    assert distance(whole, train(batch_size=1, gradient_accumulation=8)) < 1e-6
    assert distance(whole, train(batch_size=8, seed=1)) > 1e-3, "the measure sees a difference"


def test_activations_computed_again_train_the_same_weights_with_dropout_too(train) -> None:
    options = {"batch_size": 4, "lora_dropout": 0.2}
    kept = train(**options)
    assert distance(kept, train(**options, gradient_checkpointing=True)) < 1e-6
    assert distance(kept, train(batch_size=4)) > 1e-4, "dropout matters"


def test_packed_rows_and_rows_one_by_one_train_the_same_weights(train) -> None:
    # The whole data set is one step either way, so only its cut into passes differs.
    options = {"max_length": 96, "epochs": 3}
    packed = train(**options, pack_tokens=160, gradient_accumulation=16)
    alone = train(**options, batch_size=1, gradient_accumulation=16)
    assert distance(packed, alone) < 1e-6
