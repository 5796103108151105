"""``crucible plan`` and `run(..., dry_run=True)`: nothing runs, nothing is written, all is said."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.cli import main
from crucible_kitchen.errors import ConfigError, CrucibleError, StageError, WorkflowError

NOOP = ["--adapters", "noop"]
SHORT = ["model=none", "dataset=sums", "max_steps=2"]
CONFIG = {"model": "none", "dataset": "sums", "max_steps": 2}
ADAPTERS = {"training_client": "noop", "dataset_store": "noop"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@ck.stage(writes="n")
def count(number: int) -> int:
    raise AssertionError("nothing runs")


def test_a_dry_run_gives_the_plan_and_touches_nothing() -> None:
    made = ck.run(ck.workflow("w")[count], {"number": 1}, dry_run=True, run_dir="out")
    assert isinstance(made, ck.Plan)
    assert [stage.path for stage in made.stages] == ["w/count"]
    assert ck.run("sft", CONFIG, ADAPTERS, dry_run=True) == ck.plan("sft", CONFIG, ADAPTERS)
    assert os.listdir() == []
    with pytest.raises(WorkflowError, match="unknown-key"):
        ck.run(ck.workflow("w")[count], dry_run=True)
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        ck.run("sft", {"epoch": 1}, dry_run=True)


def test_it_can_be_awaited_too() -> None:
    value = ck.workflow("w")[count]
    made = asyncio.run(ck.arun(value, {"number": 1}, dry_run=True, run_dir="out"))
    assert made == ck.plan(value, {"number": 1})
    assert os.listdir() == []
    with pytest.raises(WorkflowError, match="unknown-key"):
        asyncio.run(ck.arun(value, dry_run=True))


@ck.stage(writes="seen")
def changes(rows: list[int]) -> int:
    rows.append(1)
    return 1


def test_inputs_are_watched_where_that_is_asked_for() -> None:
    value = ck.workflow("w")[changes]
    assert ck.run(value, {"rows": []}, handlers=()).context.state.seen == 1
    with pytest.raises(StageError, match="changed its input 'rows' in place"):
        ck.run(value, {"rows": []}, handlers=(), check_inputs=True)
    with pytest.raises(StageError, match="changed its input 'rows' in place"):
        asyncio.run(ck.arun(value, {"rows": []}, handlers=(), check_inputs=True))


@ck.stage(writes="thread")
def starts() -> threading.Thread:
    raise AssertionError("nothing runs")


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_no_checkpoint_can_keep_stands_with_everything_else(dry_run) -> None:
    with pytest.raises(WorkflowError) as caught:
        ck.run(
            ck.workflow("w")[starts, count],
            run_dir="out",
            checkpoint="stage",
            dry_run=dry_run,
            handlers=(),
        )
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["unknown-key", "cannot-checkpoint"]
    assert os.listdir() == []


def test_plan_fits_80_columns_and_is_json_on_request(capsys) -> None:
    assert main(["plan", "sft", *SHORT, *NOOP]) == 0
    out = capsys.readouterr().out
    count = len(ck.plan("sft", CONFIG, ADAPTERS).stages)
    assert out.startswith(f"sft: {count} stages, ")
    assert max(map(len, out.splitlines())) <= 80
    assert main(["plan", "sft", *SHORT, *NOOP, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["ports"]["training_client"].endswith("noop.training_client.TrainingClient")
    assert os.listdir() == []


def test_plan_takes_the_times_of_an_earlier_run(capsys) -> None:
    assert main(["run", "sft", *SHORT, *NOOP, "--run-dir", "out", "--quiet"]) == 0
    made = ck.plan("sft", CONFIG, ADAPTERS, timings="out")
    never = {stage.path.rpartition("/")[2] for stage in made.stages if stage.seconds is None}
    assert "save_checkpoint" in never
    assert not never & {"load_data", "forward_backward", "optim_step", "close_session"}
    assert 0 < made.critical_s <= made.sequential_s
    events = map(json.loads, Path("out/events.jsonl").read_text().splitlines())
    spent = sum(e["duration_s"] for e in events if e["kind"] == "stage.stop")
    assert made.sequential_s == pytest.approx(spent)
    capsys.readouterr()
    assert main(["plan", "sft", *SHORT, *NOOP, "--timings", "out"]) == 0
    assert "in a row (*)" in capsys.readouterr().out


def test_times_of_what_is_no_run_are_refused(tmp_path, capsys) -> None:
    with pytest.raises(CrucibleError, match="must be a run's folder"):
        ck.plan("sft", CONFIG, ADAPTERS, timings=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CrucibleError, match="must tell of finished stages, got none"):
        ck.plan("sft", CONFIG, ADAPTERS, timings=tmp_path)
    assert main(["plan", "sft", *SHORT, *NOOP, "--timings", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("crucible: ")
