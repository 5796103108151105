"""`sft` on the local backend: a tiny model of random weights learns rows, through our kernels."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.errors import ConfigError, PortError, StageError
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def config(model, tmp_path):
    """Twenty-four rows whose answers follow one pattern, so that it shows on rows never seen."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Count from {n}.", "completion": "one two three"} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": model,
        "dataset": str(path),
        "epochs": 3,
        "batch_size": 4,
        "eval_rows": 4,
        "learning_rate": 1e-2,
        "lora_rank": 4,
        "dtype": "float32",
        "samples": 1,
        "sample_tokens": 4,
    }


def train(config, folder):
    return ck.run("sft", config, run_dir=folder, handlers=())


def history(result, name):
    return [record.value for record in result.metrics.history(name)]


def test_rows_longer_than_the_model_are_refused_before_it_is_loaded(
    config, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(CausalModel, "load", None)
    with pytest.raises(StageError, match="must be at most max_position_embeddings = 512 ") as no:
        train({**config, "max_length": 513}, tmp_path / "run")
    assert isinstance(no.value.__cause__, ConfigError)
    assert "got 513" in str(no.value)
    assert config["model"] in str(no.value)


def test_the_held_out_loss_falls_and_the_adapter_is_peft_s(config, tmp_path) -> None:
    result = train({**config, "save_every": 5, "eval_every": 5}, tmp_path / "run")
    losses = history(result, "eval_loss")
    assert losses[-1] < losses[0] - 1.0
    assert history(result, "grad_norm")[0] > 0
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    assert (adapter / "adapter_model.safetensors").stat().st_size > 1000
    assert (tmp_path / "run" / "checkpoints" / "step_000015").is_dir()
    assert len(json.loads((tmp_path / "run" / "samples.json").read_text())) == 1


def test_a_model_without_a_chat_template_learns_to_go_on_with_a_text(config, tmp_path) -> None:
    plain = Path(shutil.copytree(config["model"], tmp_path / "plain"))
    (plain / "chat_template.jinja").unlink()
    result = train({**config, "model": str(plain)}, tmp_path / "run")
    before, after = (history(result, "eval_loss")[place] for place in (0, -1))
    assert after < before - 1.0
    (sample,) = result.context.state.samples_after
    assert sample["text"].strip().startswith("one")


def test_micro_batches_change_nothing_but_rounding(config, tmp_path) -> None:
    one = train({**config, "max_steps": 3}, tmp_path / "a")
    four = train(
        {**config, "max_steps": 3, "batch_size": 1, "gradient_accumulation": 4}, tmp_path / "b"
    )
    assert history(one, "loss") == pytest.approx(history(four, "loss"), rel=1e-5)
    assert history(one, "grad_norm") == pytest.approx(history(four, "grad_norm"), rel=1e-4)


def test_a_run_can_be_repeated(config, tmp_path) -> None:
    config = {**config, "max_steps": 3, "lora_dropout": 0.1}
    one, two = train(config, tmp_path / "a"), train(config, tmp_path / "b")
    assert history(one, "loss") == history(two, "loss")
    other = train({**config, "seed": 1}, tmp_path / "c")
    assert history(one, "loss") != history(other, "loss")


def test_a_rate_that_is_far_too_high_ends_in_an_error_that_says_so(config, tmp_path) -> None:
    config = {**config, "learning_rate": 1e30, "schedule": "constant", "warmup": 0, "epochs": 9}
    with pytest.raises(StageError, match=r"must be finite, got (nan|inf) at step \d+") as caught:
        train({**config, "save_every": 1}, tmp_path / "run")
    assert "step_0000" in str(caught.value)
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_model_that_is_not_there_is_one_clear_error(config, tmp_path) -> None:
    config = {**config, "model": str(tmp_path / "config-of-nothing")}
    (tmp_path / "config-of-nothing").mkdir()
    with pytest.raises(StageError, match="config-of-nothing"):
        train(config, tmp_path / "run")


def test_a_full_disk_leaves_nothing_half_written(config, tmp_path, monkeypatch) -> None:
    import os

    from crucible_kitchen.nn import saving

    def full(path):
        if "step_000002" in str(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_flush", full)
    with pytest.raises(StageError, match="No space left on device") as caught:
        train({**config, "max_steps": 4, "save_every": 1}, tmp_path / "run")
    assert isinstance(caught.value.__cause__, PortError)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step_000001"]


def test_weights_in_bfloat16_learn_as_well(config, tmp_path) -> None:
    losses = history(train({**config, "dtype": "bfloat16"}, tmp_path / "run"), "eval_loss")
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0] - 0.5
