"""Recipes killed with SIGKILL and taken up again leave what a run never stopped leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen import ports
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import ConfigError, WorkflowError
from crucible_kitchen.testing import kill_at
from crucible_kitchen.testing.tiny_model import tiny_llama

# Metrics of the clock and of the machine, and how much was found in a cache.
OF_THE_MOMENT = ("tokens_per_second", "memory_bytes", "reference_answers_computed")


def in_a_process(work: Callable[[], object]) -> int:
    """Run something in a process of its own; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def left_by(folder: Path) -> dict[str, Any]:
    """Everything a run has left but times: metrics and events as rows, other files as bytes."""
    left: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith("journal") or name in ("report.html", "config.json"):
            continue
        if path.suffix == ".jsonl":
            # Stages that overlap tell of themselves in the order of the moment.
            rows = map(_row, path.read_text().splitlines())
            left[name] = sorted((r for r in rows if r.get("kind") != "checkpoint"), key=str)
        else:
            left[name] = path.read_bytes()
    return left


def _row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    dropped = ["time", "duration_s", "run_id", "metadata"]
    if row.get("name") in OF_THE_MOMENT:
        dropped.append("value")
    return {key: value for key, value in row.items() if key not in dropped}


SFT = {"model": "none", "eval_rows": 2, "epochs": 2, "batch_size": 2, "gradient_accumulation": 2}


PLACES = [
    ("sft/load_data", "before"),
    ("sft/prepare", "after"),
    ("sft/epochs[0]/batches[1]/micro[0]/forward_backward", "after"),
    ("sft/epochs[0]/batches[1]/optim_step", "before"),
    ("sft/epochs[0]/batches[1]/optim_step", "after"),
    ("sft/epochs[1]/order_batches", "after"),
    ("sft/epochs[1]/batches[0]/*/save_checkpoint", "after"),
    ("sft/save_adapter", "after"),
    ("sft/save_samples", "after"),
    ("sft/finally/close_session", "before"),
]


@pytest.mark.parametrize(
    ("place", "when", "checkpoint"),
    [
        *((*place, "stage") for place in PLACES),
        (*PLACES[5], ck.Every(7, fsync=False)),
        (*PLACES[8], ck.Every(7)),
        (*PLACES[6], "auto"),
    ],
)
def test_sft_on_noop(
    place: str, when: str, checkpoint: Any, rows_file: str, tmp_path: Path
) -> None:
    config = {**SFT, "dataset": rows_file, "save_every": 1, "eval_every": 1}
    adapters = {"training_client": "noop", "completer": "noop"}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    ck.run("sft", config, adapters, run_dir=whole, handlers=())
    status = in_a_process(
        lambda: ck.run(
            "sft",
            config,
            adapters,
            run_dir=stopped,
            handlers=[kill_at(place, when)],
            checkpoint=checkpoint,
        )
    )
    assert os.WTERMSIG(status) == signal.SIGKILL
    result = ck.run(resume=stopped, handlers=())
    assert left_by(stopped) == left_by(whole)
    assert result.context.state["step"] == 4
    assert len(result.metrics.history("loss")) == 4


OPTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"pack_tokens": 128, "max_length": 64},
        "sft/epochs[0]/batches[1]/optim_step",
    ),
    (
        {"window_rows": 4, "max_steps": 5, "epochs": None, "gradient_accumulation": 1},
        "sft/epochs[1]/reads_on/next_window",
    ),
    (
        {"window_rows": 4, "max_steps": 5, "epochs": None, "gradient_accumulation": 1},
        "sft/epochs[2]/batches[0]/optim_step",
    ),
    (
        {"save_best": True, "early_stopping": 2, "early_stopping_gain": 9.0},
        "sft/epochs[0]/batches[1]/should_evaluate/track_best",
    ),
    ({"save_best": True, "early_stopping_gain": 9.0}, "sft/was_better/restore_best"),
    ({"order": "by_length"}, "sft/epochs[1]/order_batches"),
]


@pytest.mark.parametrize(("options", "place"), OPTIONS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_way_of_training_goes_on(
    options: dict[str, Any], place: str, when: str, rows_file: str, tmp_path: Path
) -> None:
    config = {**SFT, "dataset": rows_file, "save_every": 1, "eval_every": 1, **options}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    adapters = {"training_client": "noop"}
    ck.run("sft", config, adapters, run_dir=whole, handlers=())
    status = in_a_process(
        lambda: ck.run(
            "sft",
            config,
            adapters,
            run_dir=stopped,
            handlers=[kill_at(place, when)],
            checkpoint="stage",
        )
    )
    assert os.WTERMSIG(status) == signal.SIGKILL, "the place was never reached"
    ck.run(resume=stopped, handlers=())
    assert left_by(stopped) == left_by(whole)


def test_time_is_counted_anew_by_a_run_that_goes_on(rows_file: str, tmp_path: Path) -> None:
    config = {**SFT, "dataset": rows_file, "max_time": "1h"}
    folder = tmp_path / "run"
    adapters = {"training_client": "noop"}
    killer = kill_at("sft/epochs[0]/batches[1]/optim_step", "after")
    status = in_a_process(
        lambda: ck.run(
            "sft", config, adapters, run_dir=folder, handlers=[killer], checkpoint="stage"
        )
    )
    assert os.WTERMSIG(status) == signal.SIGKILL
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "started_at": 1.0}))
    state = ck.run(resume=folder, handlers=()).context.state
    assert (state.step, state.stop_reason) == (4, "")


def test_the_gradients_of_a_step_are_never_split(rows_file: str, tmp_path: Path) -> None:
    """Between micro-batches nothing is written down: they are done again, from the step before."""
    config = {**SFT, "dataset": rows_file}
    place = "sft/epochs[0]/batches[1]/micro[1]/forward_backward"
    status = in_a_process(
        lambda: ck.run(
            "sft",
            config,
            {"training_client": "noop"},
            run_dir=tmp_path / "run",
            handlers=[kill_at(place)],
            checkpoint="stage",
        )
    )
    assert os.WTERMSIG(status) == signal.SIGKILL
    lines = (tmp_path / "run" / "journal" / "journal.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["commits"][0]["at"] == "sft/epochs[0]/batches[1]/assemble"
    begun: list[str] = []
    ck.run(
        resume=tmp_path / "run",
        handlers=[lambda event: begun.append(event.path) if event.kind == "stage.start" else None],
    )
    assert begun[0] == "sft/epochs[0]/batches[1]/micro[0]/forward_backward"


def test_what_only_python_can_say_must_be_said_again(rows_file: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = {**SFT, "dataset": rows_file, "max_steps": 1}
    client = noop.TrainingClient()
    ck.run("sft", config, {"training_client": client}, run_dir=folder, handlers=())
    with pytest.raises(ConfigError, match="adapter of training_client was made in Python"):
        ck.run(resume=folder, handlers=())
    result = ck.run(resume=folder, adapters={"training_client": client}, handlers=())
    assert result.metrics.history("loss")
    more = {**config, "max_steps": 2}
    with pytest.raises(ConfigError, match="max_steps: 1 before, 2 now"):
        ck.run("sft", more, {"training_client": client}, resume=folder, handlers=())
    with pytest.raises(ConfigError, match="run_dir must be that of resume"):
        ck.run(resume=folder, run_dir=tmp_path / "other", handlers=())
    with pytest.raises(ConfigError, match="must be the folder of a run"):
        ck.run(resume=tmp_path / "nothing", handlers=())
    with pytest.raises(ConfigError, match="target must be given"):
        ck.run()
    off = {"training_client": "noop"}
    ck.run("sft", config, off, run_dir=tmp_path / "off", handlers=(), checkpoint=None)
    with pytest.raises(ConfigError, match="was run without checkpoints"):
        ck.run(resume=tmp_path / "off", handlers=())


PROGRAM = """
import json, os, sys
import crucible_kitchen as ck
# Loaded once, for all the processes below.
import crucible_kitchen.adapters.local.training_client, crucible_kitchen.adapters.local.completer
import crucible_kitchen.bootstrap, transformers.models.llama.modeling_llama
from crucible_kitchen.testing import kill_at

def process(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]

def done(job):
    start = lambda name, handlers=(): ck.run(
        job["recipe"], job["config"], run_dir=f"{job['folder']}/{name}", handlers=handlers,
        checkpoint="stage",
    )
    yield process(lambda: start("whole"))
    for number, (place, when) in enumerate(job["kills"]):
        yield process(lambda: start(number, [kill_at(place, when)]))
        yield process(lambda: ck.run(resume=f"{job['folder']}/{number}", handlers=()))

print(json.dumps([list(done(job)) for job in json.loads(sys.argv[1])]))
"""

FORWARD = ("{}/epochs[0]/batches[1]/micro[0]/*forward_backward", "after")
STEPPED = ("{}/epochs[0]/batches[1]/optim_step", "after")
EVALUATES = ("{}/epochs[1]/batches[0]/*evaluate*", "before")
READS = ("{}/epochs[1]/reads_on/reference_logprobs", "before")
WINDOWS = {"window_rows": 4, "max_steps": 5, "epochs": None, "gradient_accumulation": 1}
PACKED_PAIRS = {"max_length": 64, "pack_tokens": 160}
REAL: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    (
        "sft",
        {"sample_tokens": 4, "max_length": 64, "pack_tokens": 80},
        [FORWARD, STEPPED, EVALUATES],
    ),
    ("reward", PACKED_PAIRS, [FORWARD]),
    ("dpo", {"sample_tokens": 4, **PACKED_PAIRS}, [FORWARD]),
    ("dpo", {"sample_tokens": 4, **WINDOWS}, [READS]),
]


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[int]]]:
    """The folder of each of `REAL`, and how its processes ended."""
    top = tmp_path_factory.mktemp("real")
    model = tiny_llama(top / "model")
    jobs = []
    for number, (recipe, options, kills) in enumerate(REAL):
        folder = top / str(number)
        folder.mkdir()
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for(recipe)))
        config = {
            **SFT,
            "model": model,
            "dataset": str(rows),
            "learning_rate": 1e-2,
            "lora_rank": 4,
            "lora_dropout": 0.2,
            "dtype": "float32",
            "samples": 1,
            "save_every": 1,
            "keep_last": 1,
            "eval_every": 1,
            **options,
        }
        places = [(place.format(recipe), when) for place, when in kills]
        jobs.append({"recipe": recipe, "config": config, "folder": str(folder), "kills": places})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(jobs)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(top / "cache")},
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    return [(Path(job["folder"]), ended) for job, ended in zip(jobs, codes, strict=True)]


def rows_for(recipe: str) -> list[dict[str, str]]:
    if recipe == "sft":
        return [{"prompt": f"Count from {n}.", "completion": "one two three"} for n in range(10)]
    return [
        {"prompt": f"Count from {n}.", "chosen": "one two three", "rejected": "three"}
        for n in range(10)
    ]


@pytest.mark.parametrize("number", range(len(REAL)))
def test_a_real_model_goes_on_bit_for_bit(
    number: int, real_runs: list[tuple[Path, list[int]]]
) -> None:
    """With dropout, packs, shuffling and accumulated gradients, and the optimizer's state."""
    kills = REAL[number][2]
    folder, ended = real_runs[number]
    assert ended == [0, *[signal.SIGKILL, 0] * len(kills)]
    whole = left_by(folder / "whole")
    assert "adapter/adapter_model.safetensors" in whole
    assert any(name.endswith("optimizer.safetensors") for name in whole)
    for place in range(len(kills)):
        stopped = left_by(folder / str(place))
        assert stopped.keys() == whole.keys()
        for name, content in whole.items():
            assert stopped[name] == content, f"{kills[place]}: {name} differs"


def test_a_client_that_cannot_save_its_sessions_is_told_only_where_asked(
    rows_file: str, tmp_path: Path
) -> None:
    class Forgetful(noop.TrainingClient):
        owns = ports.Port.owns

    config = {**SFT, "dataset": rows_file, "max_steps": 1}
    with pytest.raises(WorkflowError) as refused:
        ck.run(
            "sft",
            config,
            {"training_client": Forgetful},
            run_dir=tmp_path / "a",
            handlers=(),
            checkpoint="stage",
        )
    (problem,) = refused.value.problems
    assert (problem.code, problem.path) == ("cannot-checkpoint", "sft/init_session")
    ck.run("sft", config, {"training_client": Forgetful}, run_dir=tmp_path / "b", handlers=())
    assert not (tmp_path / "b" / "journal").exists()
