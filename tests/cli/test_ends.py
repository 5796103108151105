"""How ``crucible run`` ends, by its exit code, and that ``crucible resume`` then goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crucible_kitchen.cli import main
from crucible_kitchen.cli.run import read_checkpoint
from crucible_kitchen.engine import Every, Seconds
from crucible_kitchen.engine.journal import read_journal
from crucible_kitchen.errors import ConfigError

STAGES = """\
import asyncio
import os
import signal
from pathlib import Path

import crucible_kitchen as ck

def note(text):
    with open("log", "a") as file:
        file.write(text + "\\n")

@ck.stage(writes="n")
def add(item: int, n: int = 0) -> int:
    note(f"add {item}")
    return n + item

@ck.stage(writes="m", timeout=5)
async def act(what: str, n: int) -> int:
    if not Path("calm").exists():
        note("acts")
        if what == "error":
            raise ValueError("no")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.2 if what == "timeout" else 30)
        raise TimeoutError("took too long") if what == "timeout" else AssertionError
    return n * 10

@ck.stage
def show(m: int):
    note(f"m {m}")

@ck.stage
def close():
    note("closed")
"""
FLOW = """\
workflow: flow
body:
- loop: l
  over: [1, 2, 3]
  body:
  - stage: stages:add
    bind: {item: l.item}
- stages:act
- stages:show
finally:
- stages:close
config: {what: none}
"""
ENDS = {"error": 1, "timeout": 1, "SIGINT": 130, "SIGTERM": 143, "kill": -signal.SIGKILL}
CRUCIBLE = str(Path(sys.executable).with_name("crucible"))

# Forks, so that only one process pays for the imports.
PROGRAM = """\
import os
import sys
from crucible_kitchen import bootstrap
from crucible_kitchen.cli import main, resume, run

children = {}
for folder in sys.argv[2:]:
    children[os.fork()] = folder
    if 0 in children:
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(said, 1), os.dup2(said, 2)
        with open("pid", "w") as file:
            file.write(str(os.getpid()))
        what = os.path.basename(folder)
        asked = ["flow.yaml", f"what={what}", "--run-dir", "out", "--checkpoint", "stage"]
        sys.exit(main(["resume", "out"] if sys.argv[1] == "resume" else ["run", *asked]))
while children:
    child, status = os.wait()
    print(os.path.basename(children.pop(child)), os.waitstatus_to_exitcode(status), flush=True)
"""


def crucible(command: str, folders: list[Path]) -> subprocess.Popen[str]:
    """A process that runs a command in each folder, and prints their exit codes."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, command, *map(str, folders)],
        stdout=subprocess.PIPE,
        text=True,
    )


def codes_of(process: subprocess.Popen[str]) -> dict[str, int]:
    told, _ = process.communicate(timeout=90)
    return {what: int(code) for what, code in map(str.split, told.splitlines())}


def log_of(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def signal_when_it_acts(folder: Path, what: str) -> None:
    deadline = time.monotonic() + 60
    while "acts" not in log_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int((folder / "pid").read_text()), getattr(signal, what))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {what: tmp_path / what for what in ENDS}
    for folder in made.values():
        folder.mkdir()
        (folder / "stages.py").write_text(STAGES)
        (folder / "flow.yaml").write_text(FLOW)
    return made


def test_each_end_has_its_exit_code_and_a_resume_goes_on(folders: dict[str, Path]) -> None:
    running = crucible("run", list(folders.values()))
    for what in ("SIGINT", "SIGTERM"):
        signal_when_it_acts(folders[what], what)
    assert codes_of(running) == ENDS
    for what, folder in folders.items():
        clean_up = [] if what == "kill" else ["closed"]
        assert log_of(folder) == ["add 1", "add 2", "add 3", "acts", *clean_up]
        assert read_journal(folder / "out").main.at == "flow/l[2]/add"
        advised = "crucible resume out" in (folder / "said").read_text()
        assert advised == (what not in ("kill", "SIGTERM")), what
        (folder / "log").unlink()
        (folder / "calm").touch()
    assert codes_of(crucible("resume", list(folders.values()))) == dict.fromkeys(ENDS, 0)
    for folder in folders.values():
        assert log_of(folder) == ["m 60", "closed"]


def test_the_installed_command_ends_as_a_shell_expects(folders: dict[str, Path]) -> None:
    folder = folders["SIGTERM"]
    process = subprocess.Popen([CRUCIBLE, "run", "flow.yaml"], cwd=folder)
    (folder / "pid").write_text(str(process.pid))
    signal_when_it_acts(folder, "SIGTERM")
    assert process.wait(60) == 143
    assert log_of(folder)[-1] == "closed"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("stage", "stage"),
        ("auto", "auto"),
        ("never", None),
        ("100", Every(100)),
        ("60s", Seconds(60)),
    ],
)
def test_checkpoint_says_when(text: str, wanted: object) -> None:
    assert read_checkpoint(text) == wanted


@pytest.mark.parametrize("text", ["sometimes", "0", "-1s", "1.5", ""])
def test_a_checkpoint_that_is_no_moment_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        read_checkpoint(text)
    assert main(["run", "sft", f"--checkpoint={text}"]) == 2
    assert "must be" in capsys.readouterr().err
