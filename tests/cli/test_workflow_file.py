"""A YAML file with a workflow runs, is described and checked as a recipe's does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.cli import main
from crucible_kitchen.errors import ConfigError, WorkflowError

STAGES = """\
import crucible_kitchen as ck
from crucible_kitchen.ports import DatasetStore

@ck.stage(writes="rows")
def rows(dataset: str, *, dataset_store: DatasetStore) -> list:
    return dataset_store.to_list(dataset_store.load_dataset(dataset))

@ck.stage(writes="total")
def add(n: int, total: int = 0) -> int:
    return total + n
"""
FLOW = """\
workflow: counting
body:
- {module}:rows
- loop: numbers
  over: [1, 2, 3]
  body:
  - stage: {module}:add
    bind: {{n: numbers.item}}
config: {{dataset: sums}}
adapters: {{dataset_store: noop}}
"""


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    # A module of a name of its own for each test: Python keeps what it has imported.
    module = f"stages_of_{request.node.name.partition('[')[0]}"
    (tmp_path / f"{module}.py").write_text(STAGES)
    (tmp_path / "flow.yaml").write_text(FLOW.format(module=module))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flow.yaml"


def test_it_runs_and_leaves_a_folder(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    assert main(["run", "flow.yaml", "--run-dir", "out"]) == 0
    assert "out/report.html" in capsys.readouterr().out
    assert Path("out/events.jsonl").is_file()
    assert sys.path == before


def test_it_runs_by_the_installed_command(flow: Path) -> None:
    command = str(Path(sys.executable).with_name("crucible"))
    done = subprocess.run(
        [command, "run", "flow.yaml"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_it_is_described_and_checked(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "flow.yaml"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("counting\n")
    assert "loop numbers over [1, 2, 3]\n    add" in said
    assert "dataset_store" in said
    assert "configuration" not in said
    assert main(["validate", "flow.yaml"]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_it_is_drawn_with_a_run_of_it(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "flow.yaml", "--run-dir", "out"]) == 0
    assert main(["describe", "flow.yaml", "--html", "a/page.html", "--run", "out"]) == 0
    assert capsys.readouterr().out.endswith("a/page.html\n")
    page = Path("a/page.html").read_text()
    assert "3 iterations" in page
    assert "finished" in page
    assert main(["describe", "flow.yaml", "--html", "page.html"]) == 0
    assert "finished" not in Path("page.html").read_text().partition("<body>")[2]
    assert main(["describe", "flow.yaml", "--run", "out"]) == 2
    assert "--run needs --html" in capsys.readouterr().err
    assert main(["describe", "sft", "--html", "page.html", "--run", "out"]) == 1
    assert "run must be one of workflow 'sft', got one of 'counting'" in capsys.readouterr().err


def test_the_command_overrides_the_file(flow: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "flow.yaml", "dataset=null"]) == 2
    said = capsys.readouterr().err
    assert "reads config 'dataset' as str, got NoneType" in said


def test_a_program_runs_it(flow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(flow.parent)
    result = ck.run(flow, {"dataset": "sums"}, handlers=())
    assert result.context.state.total == 6
    assert ck.describe("flow.yaml")["name"] == "counting"


def test_json_is_taken_too(flow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(flow.parent)
    written = ck.Workflow.from_yaml(flow.read_text().partition("config:")[0]).to_json()
    flow.with_suffix(".json").write_text(written.rstrip().removesuffix("}") + ', "config": {}}')
    given = {"dataset_store": "noop"}
    result = ck.run("flow.json", {"dataset": "sums"}, adapters=given, handlers=())
    assert result.context.state.total == 6
    flow.with_suffix(".json").write_text("{")
    with pytest.raises(ConfigError, match=r"flow\.json is not JSON"):
        ck.validate("flow.json")


def test_what_is_wrong_in_it_is_told_with_its_lines(
    flow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow.write_text(flow.read_text().replace(":add", ":ad").replace("over:", "ovr:"))
    assert main(["run", "flow.yaml"]) == 2
    said = capsys.readouterr().err
    assert "flow.yaml:4): a loop has no field 'ovr'" in said
    assert "flow.yaml:7): 'stages_of_test_what_is_wrong_in_it_is_told_with_its_lines:ad'" in said
    assert "did you mean 'add'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workflow: w\nbdy: []", "unknown key 'bdy'; did you mean 'body'"),
        ("workflow: w\nrecipe: sft\nbody: []", "unknown key 'recipe'"),
        ("body: []\nconfg: {}", "unknown key 'confg'; did you mean 'config'"),
        ("workflow: w\nconfig: 3\nbody: []", "config must be a mapping"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ck.validate(path)
    assert said in str(caught.value)
    path.write_text("body: []\n")
    with pytest.raises(WorkflowError, match="a workflow is a mapping with workflow: NAME"):
        ck.validate(path)
    path.write_text("workflow: w\nbody: []\n")
    with pytest.raises(WorkflowError, match="is empty"):
        ck.validate(path)
