"""A recipe taken up again with other values: those that can still count do, others are refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen import report
from crucible_kitchen.adapters import noop
from crucible_kitchen.cli import main
from crucible_kitchen.errors import ConfigError, StageError

ADAPTERS = {"training_client": "noop", "completer": "noop"}
FREE = {
    "learning_rate": 1e-3,
    "schedule": "linear",
    "warmup": 2,
    "min_learning_rate": 1e-5,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_eps": 1e-8,
    "grad_clip_norm": 0.5,
    "eval_every": 3,
    "max_time": 3600.0,
    "save_every": 2,
    "keep_last": 1,
}


def fail_in(call: str, number: int) -> Callable[..., Any]:
    """In place of a method of the noop client: it fails when it is called so often."""
    method, calls = getattr(noop.TrainingClient, call), itertools.count(1)

    def called(*arguments: Any) -> Any:
        if next(calls) == number:
            raise RuntimeError("gone")
        return method(*arguments)

    return called


def begin(folder: Path, config: dict[str, Any], **options: Any) -> None:
    with pytest.raises(StageError):
        ck.run("sft", config, ADAPTERS, run_dir=folder, handlers=(), **options)


@pytest.fixture
def stopped(rows_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The folder of a run of four steps, whose second failed."""

    def stop(**config: Any) -> Path:
        given = {"model": "none", "dataset": rows_file, "eval_rows": 2, "max_steps": 4, **config}
        with monkeypatch.context() as patch:
            patch.setattr(noop.TrainingClient, "optim_step", fail_in("optim_step", 2))
            begin(tmp_path / "run", given, checkpoint="stage")
        return tmp_path / "run"

    return stop


def go_on(folder: Path, **changes: Any) -> Any:
    config = report.config_of(folder, changes)
    return ck.run("sft", config, ADAPTERS, resume=folder, allow_changed=True, handlers=())


def test_what_is_settled_before_the_first_step_is_refused(stopped: Callable[..., Path]) -> None:
    folder = stopped()
    settled = {
        "max_steps": 6,
        "epochs": 1,
        "batch_size": 1,
        "gradient_accumulation": 2,
        "pack_tokens": 512,
        "lora_dropout": 0.5,
        "max_length": 256,
        "seed": 1,
    }
    with pytest.raises(ConfigError) as refused:
        go_on(folder, learning_rate=1e-3, **settled)
    said = str(refused.value)
    assert set(re.findall(r"  - (\w+):", said)) == settled.keys()
    assert set(said.rpartition("may change is ")[2].split(", ")) >= FREE.keys()
    assert go_on(folder).context.state.step == 4, "nothing of it was spoiled"


def test_the_command_line_says_it_too(
    stopped: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(max_steps=4)
    assert main(["resume", str(folder), "--allow-changed", "max_steps=6"]) != 0
    said = capsys.readouterr().err
    assert "  - max_steps: 4 before, 6 now\n" in said
    assert "may change is " in said


def test_what_later_steps_read_counts_from_there_on(stopped: Callable[..., Path]) -> None:
    folder = stopped(schedule="constant", warmup=0, learning_rate=0.01)
    result = go_on(folder, **{**FREE, "schedule": "constant", "warmup": 0, "min_learning_rate": 0})
    rates = [record.value for record in result.metrics.history("learning_rate")]
    assert rates == [0.01, 1e-3, 1e-3, 1e-3]


def test_data_sets_of_a_list_are_the_same_as_before(
    stopped: Callable[..., Path], rows_file: str
) -> None:
    folder = stopped(dataset=[{"name": rows_file, "weight": 1.0}])
    assert go_on(folder, learning_rate=1e-3).context.state.step == 4


def test_a_run_without_a_checkpoint_starts_over_with_any_values(
    rows_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model": "none", "dataset": rows_file, "eval_rows": 2, "max_steps": 4}
    with monkeypatch.context() as patch:
        patch.setattr(noop.TrainingClient, "optim_step", fail_in("optim_step", 2))
        begin(tmp_path / "run", config)
    assert go_on(tmp_path / "run", max_steps=6).context.state.step == 6
