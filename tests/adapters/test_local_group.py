"""Several processes train what one trains, on the same recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import crucible_kitchen as ck
from crucible_kitchen.adapters.local import TrainingClient
from crucible_kitchen.adapters.local.group import Group
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing.tiny_model import tiny_llama

SETTINGS = {
    "max_steps": 3,
    "batch_size": 3,  # an odd one: the shares differ
    "eval_rows": 2,
    "learning_rate": 0.01,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    rows = folder / "rows.jsonl"
    pairs = [
        {"prompt": f"Count to {n}.", "chosen": "one two three", "rejected": "three " * (n % 4 + 1)}
        for n in range(12)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    answers = folder / "answers.jsonl"
    texts = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    answers.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return {"model": tiny_llama(folder / "tiny"), "sft": answers, "reward": rows, "dpo": rows}


def train_by_two(recipe: str, config: dict[str, Any], out: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = ("-m", "crucible_kitchen.cli", "run", recipe, "--quiet", "--run-dir", str(out))
    done = subprocess.run(
        [sys.executable, *launcher, *command, *(f"{k}={v}" for k, v in config.items())],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=out.parent,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out)], "the first process speaks, and it alone"


@pytest.mark.parametrize("recipe", ["sft", "reward", "dpo"])
def test_two_processes_give_the_weights_and_metrics_of_one(
    recipe: str, inputs: dict[str, Any], tmp_path: Path
) -> None:
    config = {**SETTINGS, "model": inputs["model"], "dataset": str(inputs[recipe])}
    one, two = tmp_path / "one", tmp_path / "two"
    on_cpu = {"training_client": (TrainingClient, {"device": "cpu"})}
    ck.run(recipe, config, adapters=on_cpu, run_dir=one, handlers=())
    train_by_two(recipe, config, two)
    file = "adapter/adapter_model.safetensors"
    want, got = load_file(one / file), load_file(two / file)
    assert any(weight.norm() > 0 for name, weight in want.items() if "lora_B" in name)
    for name, weight in want.items():
        error = (got[name] - weight).norm()
        assert error <= 1e-6 * max(1.0, float(weight.norm())), name
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [r["value"] for r in records if r["name"] in ("loss", "eval_loss")]
    assert len(found) >= 4
    return found


def test_shares_and_their_order() -> None:
    shares = [Group(rank, 3).share("abcdefg") for rank in range(3)]
    assert shares == [list("adg"), list("be"), list("cf")]

    class Fake(Group):
        def gather(self, mine: Any) -> list[Any]:
            return [list(share) for share in shares]

    assert "".join(Fake(0, 3).interleave("adg")) == "abcdefg"
    shares = [Group(rank, 3).share("aAbBcCdDe", 2) for rank in range(3)]
    assert shares == [list("aAdD"), list("bBe"), list("cC")]
    assert "".join(Fake(0, 3).interleave("aAdD", 2)) == "aAbBcCdDe"
    assert Group().share([1, 2]) == [1, 2]
    assert Group().interleave([1, 2]) == [1, 2]


def test_other_processes_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PortError, match="could not join the 2 processes of WORLD_SIZE"):
        Group.of_environment(torch.device("cpu"))
