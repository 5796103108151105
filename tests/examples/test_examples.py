"""Every example runs, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.recipes import find_target

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CRUCIBLE_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_workflow_on_noop_adapters_is_fifteen_lines_and_learns(run) -> None:
    code = (EXAMPLES / "noop_workflow.py").read_text().splitlines()[1:]
    assert len([line for line in code if line.strip()]) <= 16
    assert float(run(str(EXAMPLES / "noop_workflow.py")).split()[-1]) < 2.0


def test_sft_from_python(run, tmp_path, tiny_model, rows_file) -> None:
    said = run(
        str(EXAMPLES / "sft.py"), f"model={tiny_model}", f"dataset={rows_file}", "max_steps=2"
    )
    assert "step 2: loss" in said
    assert "held-out loss" in said
    assert list(tmp_path.glob("runs/*/report.html"))


def test_sft_from_a_file(run, tmp_path, tiny_model, rows_file) -> None:
    command = ["-m", "crucible_kitchen.cli", "run", str(EXAMPLES / "sft.yaml"), "--quiet"]
    run(*command, f"model={tiny_model}", f"dataset={rows_file}", "max_steps=1", "--run-dir", "out")
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_dpo_from_python(run, tmp_path, tiny_model, pairs_file) -> None:
    said = run(
        str(EXAMPLES / "dpo.py"), f"model={tiny_model}", f"dataset={pairs_file}", "max_steps=2"
    )
    assert "eval_loss 0.693 -> " in said
    assert "eval_accuracy 0.000 -> " in said
    assert list(tmp_path.glob("runs/*/report.html"))


def test_dpo_from_a_file(run, tmp_path, tiny_model, pairs_file) -> None:
    command = ["-m", "crucible_kitchen.cli", "run", str(EXAMPLES / "dpo.yaml"), "--quiet"]
    run(*command, f"model={tiny_model}", f"dataset={pairs_file}", "max_steps=1", "--run-dir", "out")
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_reward_from_python(run, tmp_path, tiny_model, pairs_file) -> None:
    said = run(
        str(EXAMPLES / "reward.py"), f"model={tiny_model}", f"dataset={pairs_file}", "max_steps=2"
    )
    assert "eval_loss 0.69" in said
    assert "eval_accuracy " in said
    scores = [float(line.split()[1]) for line in said.splitlines() if line.startswith("score ")]
    assert len(set(scores)) == 2
    assert list(tmp_path.glob("runs/*/report.html"))


def test_reward_from_a_file(run, tmp_path, tiny_model, pairs_file) -> None:
    command = ["-m", "crucible_kitchen.cli", "run", str(EXAMPLES / "reward.yaml"), "--quiet"]
    run(*command, f"model={tiny_model}", f"dataset={pairs_file}", "max_steps=1", "--run-dir", "out")
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def test_every_recipe_file_is_right() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        find_target(path).configured(None)


def test_full_training_learns_and_leaves_nothing_open(run) -> None:
    said = run(str(EXAMPLES / "full_training.py")).splitlines()[-1]
    steps, *losses = re.findall(r"\d+\.?\d*", said)
    assert int(steps) == 24
    assert len(losses) == 4
    assert sorted(map(float, losses), reverse=True) == list(map(float, losses))
    assert float(losses[-1]) < 0.5 * float(losses[0])


def test_the_sweep_keeps_the_best_rate(run) -> None:
    rows = [line.split() for line in run(str(EXAMPLES / "fan_out_sweep.py")).splitlines()]
    losses = {row[1]: float(row[3]) for row in rows}
    (best,) = [row[1] for row in rows if row[-1] == "best"]
    assert list(losses) == ["0.01", "0.03", "0.1", "0.3", "2.0"]
    assert losses[best] == min(losses.values())
    assert best == "0.3"


def test_a_networkx_graph_runs_in_the_order_of_its_edges(run) -> None:
    order, said = run(str(EXAMPLES / "from_networkx.py")).splitlines()
    assert order == "read -> split -> count -> longest -> show"
    assert said == "{'be': 2, 'not': 1, 'or': 1, 'to': 2} longest: not"


def test_sampling_and_training_at_the_same_time(run) -> None:
    steps, staleness = re.findall(r"\d+", run(str(EXAMPLES / "off_policy.py"), "6"))
    assert steps == "6"
    assert int(staleness) <= 2
