"""Several processes train what one trains, on the same recipe."""

from __future__ import annotations

import json
import os
import shutil
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

RECIPES = ["sft", "reward", "dpo"]
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


# What each process of a launch does; started once for many runs, since starting takes longest.
WORK = """
import json, os, signal, sys
import crucible_kitchen as ck
from crucible_kitchen import cli, optim
from crucible_kitchen.report import job

job._CHECKPOINT = ck.Every(1)  # a minute would never pass

commands, dies_at = json.loads(sys.argv[1]), int(sys.argv[2])
step = optim.AdamW.step

def dying(self):
    dying.calls += 1
    if dying.calls == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)

dying.calls = 0
if os.environ["RANK"] == "1":
    optim.AdamW.step = dying
for command in commands:
    if code := cli.main(command):
        sys.exit(code)
"""


def by_two(commands: list[list[str]], folder: Path, dies_at: int = 0) -> Any:
    """Give `crucible` commands to two processes; the second is killed in a step, or never (0)."""
    (folder / "work.py").write_text(WORK)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return subprocess.run(
        [sys.executable, *launcher, "work.py", json.dumps(commands), str(dies_at)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )


def command(recipe: str, config: dict[str, Any], run_dir: Path) -> list[str]:
    settings = (f"{name}={value}" for name, value in config.items())
    return ["run", recipe, "--quiet", "--run-dir", str(run_dir), *settings]


def config_of(recipe: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {**SETTINGS, "model": inputs["model"], "dataset": str(inputs[recipe])}


def by_one(recipe: str, inputs: dict[str, Any], run_dir: Path) -> None:
    on_cpu = {"training_client": (TrainingClient, {"device": "cpu"})}
    ck.run(recipe, config_of(recipe, inputs), adapters=on_cpu, run_dir=run_dir, handlers=())


@pytest.fixture(scope="module")
def twos(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of every recipe by two processes, over whole weights and over parts."""
    folder = tmp_path_factory.mktemp("twos")
    runs = {
        folder / name: command(recipe, config_of(recipe, inputs) | more, folder / name)
        for recipe in RECIPES
        for name, more in ((recipe, {}), (f"{recipe}-fsdp", {"fsdp": True}))
    }
    done = by_two([*runs.values()], folder)
    assert done.returncode == 0, done.stderr
    said = [str(run) for run in runs]
    assert done.stdout.splitlines() == said, "the first process speaks, and it alone"
    assert {path.name for path in folder.iterdir()} == {*(run.name for run in runs), "work.py"}
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_give_the_weights_and_metrics_of_one(
    recipe: str, inputs: dict[str, Any], twos: Path, tmp_path: Path
) -> None:
    by_one(recipe, inputs, tmp_path / "one")
    for two in (twos / recipe, twos / f"{recipe}-fsdp"):
        assert_same_weights(two, tmp_path / "one")
        assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_killed_process_ends_the_others_and_any_number_goes_on(
    inputs: dict[str, Any], twos: Path, tmp_path: Path
) -> None:
    killed, copy = tmp_path / "killed", tmp_path / "copy"
    config = config_of("sft", inputs) | {"fsdp": True}
    done = by_two([command("sft", config, killed)], tmp_path, dies_at=3)
    assert done.returncode != 0
    assert [*killed.glob("journal/handles/*/optimizer.safetensors")], "nothing to go on from"
    shutil.copytree(killed, copy)
    resumed = by_two([["resume", str(killed), "--quiet"]], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines() == [str(killed)]
    assert_same_weights(killed, twos / "sft")
    ck.run(resume=copy, handlers=())
    assert_same_weights(copy, twos / "sft")


def assert_same_weights(run: Path, other: Path) -> None:
    file = "adapter/adapter_model.safetensors"
    got, want = load_file(run / file), load_file(other / file)
    assert any(weight.norm() > 0 for name, weight in want.items() if "lora_B" in name)
    for name, weight in want.items():
        error = (got[name] - weight).norm()
        assert error <= 1e-6 * max(1.0, float(weight.norm())), name


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
