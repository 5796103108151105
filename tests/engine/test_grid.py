"""{error, timeout, SIGINT, SIGTERM, crash} x {sync, async, thread, process, parallel, loop}.

Real signals to real processes: clean-up runs once, siblings are stopped, no thread, task or process
is left, the exit code is right; and another process goes on from the journal to the same result,
with nothing done twice. `grid_program` runs the cells.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("grid_program.py")
WHERE = ("sync", "async", "thread", "process", "parallel", "loop")
WHAT = ("error", "timeout", "SIGINT", "SIGTERM", "crash")
CODES = {"error": 1, "timeout": 1, "SIGINT": 130, "SIGTERM": 143}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each cell, by its name."""
    if sys.platform == "win32":
        pytest.skip("signals and forks are those of POSIX")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("grid"))],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {cell["cell"]: cell for cell in map(json.loads, done.stdout.splitlines())}


def ended_well(cell: dict[str, Any], cancelled: list[str], threads: str = "threads []") -> None:
    began, *rest = cell["log"]
    assert began.startswith("began ")
    assert sorted(rest[: len(cancelled)]) == sorted(cancelled)
    assert rest[len(cancelled) :] == ["told", "closed", threads, "no child"]


def goes_on(grid: dict[str, Any], where: str, what: str, at: str) -> None:
    """Whether the journal says where it stood, and a resume comes to what a calm run does."""
    cell, calm = grid[f"{where}-{what}"], grid[f"{where}-calm"]
    assert calm["code"] == 0
    assert cell["at"] == at
    assert cell["resumed"] == 0
    assert cell["log_resumed"] == ["closed", "threads []", "no child"]
    assert cell["did"] == calm["did"]
    assert cell["state"] == calm["state"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", WHAT)
def test_a_run_ends_well(grid: dict[str, Any], where: str, what: str) -> None:
    cell = grid[f"{where}-{what}"]
    if (where, what) == ("sync", "timeout"):  # refused: nothing could end it
        assert cell["code"] == 2
        assert cell["log"] == ["threads []", "no child"]
        assert "at" not in cell  # nothing has run, so there is nothing to go on with
        return
    goes_on(grid, where, what, "w/l[2]/record" if where == "loop" else "w/prepare")
    if what == "crash" and where != "process":  # SIGKILL to the run itself: nothing can run
        assert cell["code"] == -9
        assert len(cell["log"]) == 1
        return
    assert cell["code"] == CODES.get(what, 1)
    cancelled = ["sibling cancelled"] if where == "parallel" else []
    if where in ("async", "parallel") and what != "error":
        cancelled.append("act cancelled")
    # A thread cannot be ended, so after its timeout it is left to itself, which is told.
    left = (where, what) == ("thread", "timeout")
    ended_well(cell, cancelled, "threads ['crucible-act_thread-0']" if left else "threads []")


@pytest.mark.parametrize("what", ["SIGINT", "SIGTERM"])
def test_an_async_loop_ends_well(grid: dict[str, Any], what: str) -> None:
    cell = grid[f"async_loop-{what}"]
    assert cell["code"] == CODES[what]
    ended_well(cell, [])
    goes_on(grid, "async_loop", what, "w/l[2]/record")


def test_neighbours_that_overlap_are_stopped(grid: dict[str, Any]) -> None:
    assert grid["overlap-error"]["code"] == 1
    ended_well(grid["overlap-error"], ["sibling cancelled"])
    goes_on(grid, "overlap", "error", "w/prepare..record_last")


def test_the_process_of_a_stage_does_not_outlive_a_killed_run(grid: dict[str, Any]) -> None:
    cell = grid["process-SIGKILL"]
    assert cell["code"] == -9
    (began,) = cell["log"]
    stat = Path("/proc") / began.split()[1] / "stat"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(stat):
        time.sleep(0.01)
    assert not _runs(stat)


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
