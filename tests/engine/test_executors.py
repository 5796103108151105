"""Stages on threads and in processes: values go over, errors come back, nothing is left."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.engine import arun, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Retry, fan_out, loop, stage, workflow

MODULE = '''
import os, pathlib, signal, subprocess, sys, time
from typing import NamedTuple
from crucible_kitchen.context import Metrics
from crucible_kitchen.engine import Rng
from crucible_kitchen.graph import stage


class Both(NamedTuple):
    total: int
    process: int


class Odd(Exception):
    """One that pickle writes and cannot read."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@stage(executor="process")
def add(x: int, total: int = 0) -> Both:
    return Both(total + x, os.getpid())


@stage(writes="drawn", executor="process")
def draw(x: int, *, rng: Rng, metrics: Metrics) -> float:
    metrics.record("drawn", 0.5, step=x, metadata={"from": "child"})
    return float(rng.random())


@stage(writes="out", executor="process")
def act(x: str) -> object:
    return {"raise": fail, "odd": odd, "exit": leave, "kill": die, "lock": lock, "sleep": sleep,
            "say": say, "wrong": lambda: {"x": lambda: 1}}[x]()


def fail(): raise KeyError("missing")
def odd(): raise Odd(1, 2)
def leave(): os._exit(7)
def die(): os.kill(os.getpid(), signal.SIGSEGV)
def lock():
    import threading
    return threading.Lock()
def say():
    print("said in a process")
    return 1
def sleep():
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path("pids").write_text(f"{os.getpid()} {started.pid}")
    time.sleep(60)


@stage(writes="text", executor="process")
def number(x: int) -> str:
    return x
'''


def _children() -> set[str]:
    """Processes that this one has started and not waited for; other tests may have some."""
    files = Path("/proc/self/task").glob("*/children")
    return {child for file in files for child in file.read_text().split()}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of a user's, in whose folder the test runs."""
    (tmp_path / "elsewhere.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, children = set(threading.enumerate()), _children()
    yield importlib.import_module("elsewhere")
    del sys.modules["elsewhere"]
    assert set(threading.enumerate()) <= before
    assert _children() <= children


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_values_metrics_and_random_numbers_go_over(elsewhere: Any) -> None:
    body = loop("l", over=range(3))[elsewhere.add.bind(x="l.item"), elsewhere.draw.bind(x="l.item")]
    there = run(workflow("w")[body], seed=3)
    here = run(
        workflow("w")[
            loop("l", over=range(3))[
                elsewhere.add.bind(x="l.item").with_(executor=None),
                elsewhere.draw.bind(x="l.item").with_(executor=None),
            ]
        ],
        seed=3,
    )
    assert there.context.state.total == 3
    assert there.context.state.process != os.getpid()
    assert there.context.state.drawn == here.context.state.drawn
    records = [(m.name, m.value, m.step, dict(m.metadata)) for m in there.metrics]
    assert records == [("drawn", 0.5, step, {"from": "child"}) for step in range(3)]


def test_a_process_is_kept_for_the_next_stage(elsewhere: Any) -> None:
    seen: list[int] = []
    note = stage(lambda process: seen.append(process)).with_(name="note")
    run(workflow("w")[loop("l", over=range(4))[elsewhere.add.bind(x="l.item"), note]])
    assert len(set(seen)) == 1


def test_copies_run_in_processes_of_their_own(elsewhere: Any) -> None:
    sweep = fan_out("f", over=range(3), collect=("total", "process"), max_concurrency=3)
    state = run(workflow("w")[sweep[elsewhere.add.bind(x="f.item")]]).context.state
    assert state["f.total"] == [0, 1, 2]
    assert os.getpid() not in state["f.process"]


def test_errors_keep_their_class_and_their_traceback(elsewhere: Any) -> None:
    with pytest.raises(StageError, match="KeyError: 'missing'") as caught:
        run(workflow("w")[elsewhere.act.bind(x="what")], {"what": "raise"})
    assert isinstance(caught.value.__cause__, KeyError)
    shown = "".join(traceback.format_exception(caught.value))
    assert "in fail" in shown
    assert "elsewhere.py" in shown


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("odd", RuntimeError, "Odd: 1 and 2"),
        ("exit", ChildProcessError, "ended with exit code 7 before the stage did"),
        ("kill", ChildProcessError, "was killed by SIGSEGV"),
        ("lock", TypeError, "returned lock, which cannot be pickled"),
        ("wrong", TypeError, "returned dict, which cannot be pickled"),
    ],
)
def test_each_end_of_a_process_is_told(
    elsewhere: Any, what: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        run(workflow("w")[elsewhere.act], {"x": what})
    assert isinstance(caught.value.__cause__, kind)
    assert caught.value.stage == "w/act"


def test_what_cannot_be_handed_over_is_told(elsewhere: Any) -> None:
    give = stage(writes="x")(lambda: threading.Lock()).with_(name="give")
    with pytest.raises(StageError, match="is handed lock, which cannot be pickled for another"):
        run(workflow("w")[give, elsewhere.act])


def test_what_comes_back_is_checked_like_any_other(elsewhere: Any) -> None:
    with pytest.raises(StageError, match="must write 'text' as str, got int"):
        run(workflow("w")[elsewhere.number], {"x": 1})


def test_a_crash_can_be_tried_again(elsewhere: Any) -> None:
    events: list[Any] = []
    node = elsewhere.act.with_(retry=Retry(2, on=ChildProcessError))
    with pytest.raises(StageError, match=r"exit code 7.*\(attempt 2\)"):
        run(workflow("w")[node], {"x": "exit"}, handlers=[events.append])
    assert [e.attempt for e in events if e.kind == "stage.retry"] == [1]


def test_a_timeout_kills_it_with_all_it_has_started(elsewhere: Any) -> None:
    with pytest.raises(StageError, match=r"TimeoutError: took longer than its timeout of 0.5 s"):
        run(workflow("w")[elsewhere.act.with_(timeout=0.5)], {"x": "sleep"})
    pids = [int(pid) for pid in Path("pids").read_text().split()]
    deadline = time.monotonic() + 10
    while not all(map(is_gone, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(map(is_gone, pids))


def test_cancelling_kills_it(elsewhere: Any) -> None:
    said: list[str] = []

    async def main() -> None:
        value = workflow("w")[elsewhere.act].finally_[
            stage(lambda: said.append("closed")).with_(name="close")
        ]
        task = asyncio.ensure_future(arun(value, {"x": "sleep"}))
        while not Path("pids").exists() or not Path("pids").read_text():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert said == ["closed"]


def test_what_it_prints_is_seen(elsewhere: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run(workflow("w")[elsewhere.act], {"x": "say"})
    assert "said in a process" in capfd.readouterr().out


def test_a_script_of_its_own_may_hold_the_stage(tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            import crucible_kitchen as ck

            class Point:
                def __init__(self, x): self.x = x

            @ck.stage(writes="y", executor="process")
            def double(point: Point) -> Point:
                return Point(2 * point.x)

            if __name__ == "__main__":
                w = ck.workflow("w")[double.bind(point=Point(4))]
                print(ck.run(w, handlers=()).context.state.y.x)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "8\n", done.stderr


def test_a_thread_of_its_own() -> None:
    names: list[str] = []

    @stage(writes="y", executor="thread")
    def note(x: int) -> int:
        names.append(threading.current_thread().name)
        return x + 1

    assert run(workflow("w")[note], {"x": 1}).context.state.y == 2
    assert names == ["crucible-note-0"]

    @stage(executor="thread", retry=2)
    def fail() -> None:
        names.append("failed")
        raise ValueError("no")

    with pytest.raises(StageError, match="ValueError: no") as caught:
        run(workflow("w")[fail])
    assert names[1:] == ["failed", "failed"]
    assert caught.value.__cause__ is not None


def test_a_thread_is_left_to_itself_after_its_timeout() -> None:
    goes_on = threading.Event()
    ended = threading.Event()
    said: list[str] = []

    @stage(writes="y", executor="thread", timeout=0.05)
    def slow() -> int:
        goes_on.wait(10)
        ended.set()
        return 1

    last: list[Context] = []
    value = workflow("w")[slow].finally_[stage(lambda: said.append("closed")).with_(name="close")]
    with (
        pytest.warns(RuntimeWarning, match="w/slow goes on in its thread after its timeout"),
        pytest.raises(StageError, match=r"took longer than its timeout of 0\.05 s"),
    ):
        run(value, on_context=last.append)
    assert said == ["closed"]
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(10)
    assert "y" not in last[0].state  # it came too late


def test_inline_stays_in_the_thread_of_the_run() -> None:
    names: list[str] = []

    def note(name: str) -> Any:
        def act() -> None:
            time.sleep(0.005)
            names.append(threading.current_thread().name)

        return stage(writes=name)(act).with_(name=name, executor="inline")

    run(workflow("w")[note("a"), note("b")])
    assert names == [threading.current_thread().name] * 2
