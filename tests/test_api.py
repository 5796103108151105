"""The public surface: what `import crucible_kitchen` gives, and what it costs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import ConfigError, StageError, WorkflowError
from crucible_kitchen.recipes import SupervisedFineTuning

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {"model": "none", "dataset": "sums", "max_steps": 2}
ADAPTERS = {"training_client": "noop", "dataset_store": "noop"}


@ck.stage(writes="double")
def twice(number: int) -> int:
    return 2 * number


class Twice(ck.Workflow):
    body = [twice]  # noqa: RUF012 - as users write it


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_every_name_of_the_surface_is_there() -> None:
    for name in ck.__all__:
        assert getattr(ck, name) is not None
    assert set(ck.__all__) <= set(dir(ck))


def test_a_wrong_name_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match="did you mean 'workflow'"):
        _ = ck.workflw


def test_importing_is_cheap_and_loads_nothing_heavy() -> None:
    code = (
        "import time; t = time.perf_counter(); import crucible_kitchen as ck;"
        "spent = time.perf_counter() - t; import sys;"
        "ck.run, ck.workflow, ck.Context, ck.recipes, ck.types;"
        "print(spent, *{'torch', 'triton', 'transformers'} & set(sys.modules))"
    )
    best, *heavy = min(python(code).split() for _ in range(3))
    assert heavy == []
    assert float(best) < 0.2


def test_the_engine_loads_neither_numpy_nor_pydantic() -> None:
    code = (
        "import sys; import crucible_kitchen.engine;"
        "print(*{'numpy', 'pydantic', 'networkx', 'torch', 'triton'} & set(sys.modules))"
    )
    assert python(code).split() == []


def test_the_version_is_that_of_the_project() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert ck.__version__ == declared[1]


def test_recipes_is_a_function_and_a_module() -> None:
    assert ck.recipes()["sft"] == SupervisedFineTuning.description
    assert ck.recipes.SupervisedFineTuning is SupervisedFineTuning


@pytest.mark.parametrize("target", ["sft", SupervisedFineTuning])
def test_a_recipe_runs_by_name_and_by_class(target, tmp_path) -> None:
    result = ck.run(target, CONFIG, ADAPTERS, run_dir=tmp_path / "run", handlers=())
    assert result.context.state.step == 2
    assert result.run_dir == tmp_path / "run"
    assert Path(result.artifacts["adapter_path"]).exists()


def test_a_recipe_takes_its_own_config(tmp_path) -> None:
    config = SupervisedFineTuning.Config(**CONFIG)
    result = ck.run("sft", config, ADAPTERS, run_dir=tmp_path / "run", handlers=())
    assert result.context.config.max_steps == 2


def test_a_recipe_completes_on_every_noop_adapter(tmp_path) -> None:
    adapters = {port.name: getattr(noop, port.__name__) for port in ck_ports().values()}
    result = ck.run("sft", CONFIG, adapters, run_dir=tmp_path / "run", handlers=())
    losses = [record.value for record in result.metrics.history("eval_loss")]
    assert losses[-1] < losses[0]


def ck_ports():
    from crucible_kitchen.ports import PORTS

    return PORTS


@pytest.mark.parametrize("target", [ck.workflow("w")[twice], Twice])
def test_a_workflow_runs_and_keeps_nothing(target, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ck.run(target, {"number": 4}, handlers=())
    assert result.context.state.double == 8
    assert result.run_dir is None
    assert list(tmp_path.iterdir()) == []


def test_arun_is_run_for_async_code(tmp_path) -> None:
    async def two():
        return await asyncio.gather(
            ck.arun("sft", CONFIG, ADAPTERS, run_dir=tmp_path / "a", handlers=()),
            ck.arun("sft", CONFIG, ADAPTERS, run_dir=tmp_path / "b", handlers=()),
        )

    one, other = asyncio.run(two())
    assert one.metrics.latest("loss") == other.metrics.latest("loss")
    assert (tmp_path / "a" / "report.html").exists()
    assert (tmp_path / "b" / "report.html").exists()


def test_a_run_by_default_makes_its_own_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {ck.run("sft", CONFIG, ADAPTERS, handlers=()).run_dir for _ in range(2)}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {Path("runs")}


def test_events_reach_a_function(tmp_path) -> None:
    seen = []
    ck.run("sft", CONFIG, ADAPTERS, run_dir=tmp_path / "run", handlers=[seen.append])
    assert seen[0].kind == "run.start"
    assert seen[-1].kind == "run.stop"
    assert {event.name for event in seen if event.kind == "metric"} >= {"loss", "eval_loss"}


def test_nothing_runs_and_nothing_is_written_where_something_is_wrong(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        ck.run("sft", {"epoch": 1}, ADAPTERS, run_dir=tmp_path / "run")
    with pytest.raises(WorkflowError, match="training_client"):
        ck.run("sft", CONFIG, {**ADAPTERS, "training_client": object()}, run_dir=tmp_path / "run")
    with pytest.raises(WorkflowError, match="numbr"):
        ck.run(ck.workflow("w")[twice], {"numbr": 1}, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validate_raises_what_run_would() -> None:
    ck.validate("sft", CONFIG, ADAPTERS)
    with pytest.raises(ConfigError):
        ck.validate("sft", {**CONFIG, "epochs": 0}, ADAPTERS)
    with pytest.raises(WorkflowError):
        ck.validate(ck.workflow("w")[twice], {})


def test_describe_says_what_a_target_is() -> None:
    about = ck.describe("sft")
    assert about["required_ports"] == ["training_client", "dataset_store"]
    assert {entry["name"] for entry in about["config"]} >= {"model", "learning_rate", "lora_rank"}
    assert ck.describe(ck.workflow("w")[twice])["workflow"]["children"][0]["name"] == "twice"


def test_an_adapter_of_ones_own_stays_open_and_is_not_replaced(tmp_path) -> None:
    client = noop.TrainingClient()
    ck.run(
        "sft", CONFIG, {**ADAPTERS, "training_client": client}, run_dir=tmp_path / "r", handlers=()
    )
    session = client.start_session({"model": "still open"})
    client.close_session(session)


def test_a_failure_names_its_stage(tmp_path) -> None:
    with pytest.raises(StageError) as caught:
        ck.run(
            "sft",
            {**CONFIG, "dataset": str(tmp_path / "gone.jsonl")},
            {"training_client": "noop"},
            run_dir=tmp_path / "run",
            handlers=(),
        )
    assert caught.value.stage == "sft/load_data"
