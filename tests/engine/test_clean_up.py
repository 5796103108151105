"""`.finally_` runs whatever happens, and never hides what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.engine import run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Stage, loop, stage, workflow


def note(said: list[str], text: str) -> Any:
    return stage(lambda: said.append(text)).with_(name=text)


def failing(error: BaseException, name: str = "boom") -> Any:
    def boom() -> None:
        raise error

    return stage(boom).with_(name=name)


def test_it_runs_after_success_and_after_an_error() -> None:
    said: list[str] = []
    run(workflow("w")[note(said, "a")].finally_[note(said, "b")])
    with pytest.raises(StageError, match="ValueError: first"):
        run(workflow("w")[failing(ValueError("first")), note(said, "no")].finally_[note(said, "c")])
    assert said == ["a", "b", "c"]


def test_it_sees_what_was_written_before_the_error() -> None:
    seen: list[int | None] = []

    @stage(writes="session")
    def start() -> int:
        return 7

    @stage
    def close(session: int | None = None) -> None:
        seen.append(session)

    with pytest.raises(StageError):
        run(workflow("w")[start, failing(ValueError())].finally_[close])
    with pytest.raises(StageError):
        run(workflow("w")[failing(ValueError()), start].finally_[close])
    assert seen == [7, None]


def test_its_own_failure_never_hides_the_first_error() -> None:
    said: list[str] = []
    value = workflow("w")[failing(ValueError("first"))].finally_[
        failing(RuntimeError("second"), "again"), note(said, "still")
    ]
    with (
        pytest.warns(RuntimeWarning, match="clean-up failed as well: w/finally/again"),
        pytest.raises(StageError, match="first") as caught,
    ):
        run(value)
    assert caught.value.stage == "w/boom"
    assert said == ["still"]


def test_its_failure_is_the_error_of_a_run_that_went_well() -> None:
    said: list[str] = []
    value = workflow("w")[note(said, "a")].finally_[failing(ValueError("late")), note(said, "b")]
    with pytest.raises(StageError, match="late") as caught:
        run(value)
    assert caught.value.stage == "w/finally/boom"
    assert said == ["a", "b"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_exits_pass_through_as_they_are(error: BaseException) -> None:
    said: list[str] = []
    events: list[Any] = []
    with pytest.raises(type(error)) as caught:
        run(
            workflow("w")[loop("l", over=[0])[failing(error)]].finally_[note(said, "closed")],
            handlers=[events.append],
        )
    assert caught.value is error
    assert said == ["closed"]
    kinds = [e.kind for e in events if e.kind.endswith("error")]
    assert kinds == ["stage.error", "block.error", "run.error"]


@pytest.mark.parametrize("kind", ["sync", "async", "class", "loop"])
def test_a_real_ctrl_c(kind: str) -> None:
    """SIGINT of the process while a stage runs: clean-up once, then KeyboardInterrupt."""
    program = textwrap.dedent(
        f"""
        import asyncio, os, signal, sys, threading, time
        from crucible_kitchen.engine import run
        from crucible_kitchen.graph import Stage, loop, stage, workflow

        def interrupt():
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

        @stage
        def wait_sync():
            interrupt(); time.sleep(20)

        @stage
        async def wait_async():
            interrupt()
            try:
                await asyncio.sleep(20)
            finally:
                print("cancelled", flush=True)

        class WaitClass(Stage):
            def execute(self, ctx):
                interrupt(); time.sleep(20)
            def rollback(self, ctx, error):
                print("rolled back", type(error).__name__, flush=True)
                return ctx

        @stage
        def close(): print("closed", flush=True)

        def forever():
            interrupt()
            while True: yield 1

        @stage
        def quick(i): pass

        body = {{"sync": wait_sync, "async": wait_async, "class": WaitClass,
                "loop": loop("l", over=forever)[quick.bind(i="l.item")]}}[{kind!r}]
        try:
            run(workflow("w")[body].finally_[close])
        except KeyboardInterrupt:
            print("interrupted", threading.active_count())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False
    )
    extra = {"async": ["cancelled"], "class": ["rolled back KeyboardInterrupt"]}.get(kind, [])
    assert done.stdout.splitlines() == [*extra, "closed", "interrupted 1"], done.stderr
    assert done.returncode == 0


def test_ctrl_c_while_cleaning_up_ends_it() -> None:
    said: list[str] = []
    value = workflow("w")[failing(ValueError())].finally_[
        failing(KeyboardInterrupt()), note(said, "never")
    ]
    with pytest.raises(KeyboardInterrupt):
        run(value)
    assert said == []


def test_a_signal_that_arrives_in_this_process() -> None:
    said: list[str] = []

    @stage
    def wait() -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        run(workflow("w")[wait].finally_[note(said, "closed")])
    assert said == ["closed"]


def test_rollback_that_fails_shows_both() -> None:
    class Clumsy(Stage):
        def execute(self, ctx: Context) -> Context:
            raise ValueError("first")

        def rollback(self, ctx: Context, error: BaseException) -> Context:
            raise OSError("second")

    with pytest.raises(StageError) as caught:
        run(workflow("w")[Clumsy])
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.__cause__.__context__, ValueError)


def test_on_error_sees_the_error_and_runs_before_finally() -> None:
    said: list[Any] = []

    @stage
    def report(error: BaseException, where: str, count: int = 0) -> None:
        said.append((type(error).__name__, where, count))

    bound = report.bind(error="on_error.error", where="on_error.stage")
    body = workflow("w")[loop("l", over=[1])[failing(ValueError("no"))]]
    value = body.finally_[note(said, "closed")].on_error[bound]
    with pytest.raises(StageError, match="no"):
        run(value)
    assert said == [("StageError", "w/l[0]/boom", 0), "closed"]
    said.clear()
    run(value[note(said, "a")])
    assert said == ["a", "closed"]
    said.clear()
    with pytest.raises(KeyboardInterrupt):
        run(value[failing(KeyboardInterrupt())])
    assert said == [("KeyboardInterrupt", "w", 0), "closed"]


def test_a_failing_on_error_hides_nothing_and_finally_still_runs() -> None:
    said: list[str] = []
    value = (
        workflow("w")[failing(ValueError("first"))]
        .on_error[failing(OSError("second"), "again"), note(said, "told")]
        .finally_[note(said, "closed")]
    )
    with pytest.warns(RuntimeWarning, match="second"), pytest.raises(StageError, match="first"):
        run(value)
    assert said == ["told", "closed"]


def test_ctrl_c_in_on_error_still_cleans_up() -> None:
    said: list[str] = []
    value = (
        workflow("w")[failing(ValueError("first"))]
        .on_error[failing(KeyboardInterrupt())]
        .finally_[note(said, "closed")]
    )
    with pytest.raises(KeyboardInterrupt):
        run(value)
    assert said == ["closed"]
