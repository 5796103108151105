"""`kill_at` kills a process at a stage, and another process takes its run up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.testing import kill_at

PROGRAM = """
import sys
from crucible_kitchen.engine import run
from crucible_kitchen.graph import loop, stage, workflow
from crucible_kitchen.testing import kill_at

@stage(writes="count")
def count_up(count: int = 0) -> int:
    print(count, flush=True)
    return count + 1

value = workflow("w")[loop("l", over=range(4))[count_up]]
resume, when = sys.argv[2] == "resume", sys.argv[3]
handlers = [] if resume else [kill_at("w/l[2]/count_*", when=when)]
result = run(value, run_dir=sys.argv[1], checkpoint="stage", resume=resume, handlers=handlers)
print("count", result.context.state["count"])
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_at_kills_a_process_that_another_one_takes_up(when: str, tmp_path: Path) -> None:
    def process(how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), how, when]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    killed = process("run")
    assert killed.returncode == -signal.SIGKILL
    resumed = process("resume")
    assert resumed.returncode == 0, resumed.stderr
    said = killed.stdout.split() + resumed.stdout.split()
    assert said == ["0", "1", "2", "3", "count", "4"]


def test_it_refuses_another_moment() -> None:
    with pytest.raises(ConfigError, match='when must be "before" or "after"'):
        kill_at("w/*", when="during")
