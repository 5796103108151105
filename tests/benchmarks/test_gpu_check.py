"""The script for machines with a GPU says so where there is none."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crucible_kitchen.cli import parser

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line_and_fails() -> None:
    run = subprocess.run(
        ["bash", str(SCRIPT)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == (
        "benchmarks/gpu_check.sh: torch sees no CUDA device, so nothing was run\n"
    )
    assert run.stdout == ""


# Has torch and a GPU of sm_90, and a pip that does what the test says.
PYTHON = """#!/bin/sh
case "$*" in
  -c*get_device_capability*) printf 90 ;;
  "-m pip"*) %s ;;
  "-m pytest"*) echo "the tests were reached"; exit 3 ;;
esac
"""


def on_a_stand_in(folder: Path, pip: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with a Python and an nvcc that only pretend."""
    for name, text in (("python", PYTHON % pip), ("nvcc", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder)],
        env=os.environ | {"PYTHON": str(folder / "python"), "PATH": path} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("pip", ["exec sleep 60", "trap '' TERM; exec sleep 60"])
def test_a_step_that_takes_too_long_is_named_and_the_status_is_1(tmp_path: Path, pip: str) -> None:
    run = on_a_stand_in(tmp_path, pip, LIMIT_S="1")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "benchmarks/gpu_check.sh: the 1 s were over during this step: build, for this GPU alone"
    )
    assert "the tests were reached" not in run.stdout


def test_a_step_that_fails_ends_it_with_1_whatever_the_steps_own_status(tmp_path: Path) -> None:
    run = on_a_stand_in(tmp_path, "true")
    assert "the tests were reached" in run.stdout
    assert (run.returncode, run.stderr) == (1, "")


@pytest.fixture(scope="module")
def commands() -> list[list[str]]:
    """What the script would run on a machine with a GPU of sm_90."""
    run = subprocess.run(
        ["bash", str(SCRIPT), "figures"],
        env=os.environ | {"PYTHON": sys.executable, "DRY": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line and not line.startswith("==")]
    return [shlex.split(line) for line in lines]


def after(command: list[str], *words: str) -> list[str]:
    """The arguments after these words."""
    at = command.index(words[-1], command.index(words[0]))
    return command[at + 1 :]


def test_every_module_it_runs_is_there(commands: list[list[str]]) -> None:
    modules = [after(command, "-m")[0] for command in commands if "-m" in command]
    assert len(modules) == len(commands) == 6
    assert all(importlib.util.find_spec(module) for module in modules), modules


def test_the_build_takes_the_settings_that_cmake_knows(commands: list[list[str]]) -> None:
    settings = [word for word in commands[0] if word.startswith("cmake.define.")]
    names = [setting.removeprefix("cmake.define.").partition("=")[0] for setting in settings]
    assert settings[1:] == [
        "cmake.define.CRUCIBLE_CUDA_ARCHS=90-real",
        "cmake.define.CRUCIBLE_CUBINS=90",
    ]
    known = (SCRIPT.parents[1] / "CMakeLists.txt").read_text()
    assert all(f"set({name} " in known for name in names)


def test_every_bench_is_asked_for_what_it_can_do(commands: list[list[str]]) -> None:
    asked = [after(c, "-m", "crucible_kitchen.cli") for c in commands if "bench" in c]
    parsed = [parser().parse_args(arguments) for arguments in asked]
    assert [(one.ops, one.device, one.dtype, one.save) for one in parsed] == [
        (["step"], "cuda", "bfloat16", "figures"),
        ([], "cuda", "bfloat16", "figures"),
        ([], "cuda", "float32", "figures"),
    ]


def test_the_sanitizer_gets_cases_of_every_op_with_a_cuda_kernel(
    commands: list[list[str]],
) -> None:
    [command] = [c for c in commands if "compute-sanitizer" in c]
    selected = subprocess.run(
        [sys.executable, *after(command, sys.executable), "--collect-only"],
        env=os.environ | {"CRUCIBLE_BACKENDS": "cuda"},
        cwd=SCRIPT.parents[1],
        capture_output=True,
        text=True,
    )
    found = selected.stdout
    assert selected.returncode == 0, found
    for op in (
        "lora_linear",
        "lora_linear_many",
        "linear_logprobs",
        "adamw_step",
        "grad_norm",
        "row_loss",
    ):
        assert f"test_matches_reference[{op}-cuda-odd-" in found, op
