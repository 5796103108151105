"""Runs that end badly, each in a process of its own: what `test_grid` looks at.

Run as a program it prints one JSON object a line. Processes are forked from one that has imported
the engine, so that a cell of the grid costs milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crucible_kitchen.engine import run
from crucible_kitchen.errors import StageError, WorkflowError
from crucible_kitchen.graph import async_loop, loop, parallel, stage, workflow

WHERE = ("sync", "async", "thread", "process", "parallel", "loop")
WHAT = ("error", "timeout", "SIGINT", "SIGTERM", "crash")
EXTRA = (("async_loop", "SIGINT"), ("async_loop", "SIGTERM"), ("overlap", "error"))


def note(text: str) -> None:
    """One more line in the log of this run's folder, in one write."""
    with open("log", "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


def begin(what: str) -> None:
    """Say where it runs, then do what is asked for now, if that is asked for."""
    note(f"began {os.getpid()}")
    if what == "error":
        raise ValueError("no")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)


@stage(writes="x")
def act_sync(what: str) -> int:
    begin(what)
    time.sleep(30)
    return 1


@stage(writes="x", executor="thread")
def act_thread(what: str) -> int:
    begin(what)
    time.sleep(0.6)  # nobody can end it
    return 1


@stage(writes="x", executor="process")
def act_process(what: str) -> int:
    begin(what)
    time.sleep(30)
    return 1


BESIDE = threading.Event()
"""Set when the sibling has begun."""


@stage(writes="x")
async def act_async(what: str, beside: bool) -> int:
    while beside and not BESIDE.is_set():
        await asyncio.sleep(0.001)
    try:
        begin(what)
        await asyncio.sleep(30)
    finally:
        note("act cancelled") if what not in ("error", "crash") else None
    return 1


@stage(writes="y")
async def sibling() -> int:
    BESIDE.set()
    try:
        await asyncio.sleep(30)
    finally:
        note("sibling cancelled")
    return 1


@stage
def tell() -> None:
    note("told")


@stage
def close() -> None:
    note("closed")


def endless() -> Iterator[int]:
    while True:
        yield 1


def make() -> int:
    time.sleep(0.001)
    return 1


@stage
def third_time(index: int, what: str) -> None:
    if index == 3:
        begin(what)
        time.sleep(30)


async def third_time_async(index: int, what: str) -> None:
    if index == 3:
        begin(what)
        await asyncio.sleep(30)


def body(where: str, what: str) -> Any:
    limit = {"timeout": 0.5} if what == "timeout" else {}
    if where == "parallel":
        return parallel("p")[act_async.with_(**limit), sibling]
    if where == "overlap":
        return [act_async, sibling]
    if where == "loop":
        last = stage(third_time_async) if limit else third_time
        return loop("l", over=endless)[last.bind(index="l.index").with_(**limit)]
    if where == "async_loop":
        made = async_loop("l", producer=make, stop_when=None)
        return made[third_time.bind(index="l.index")]
    stages = {
        "sync": act_sync,
        "async": act_async,
        "thread": act_thread,
        "process": act_process,
    }
    return stages[where].with_(**limit)


def cell(where: str, what: str) -> int:
    """Run one cell as the command line does; its exit code."""
    warnings.simplefilter("ignore", RuntimeWarning)
    value = workflow("w")[body(where, what)].on_error[tell].finally_[close]
    code = 0
    try:
        run(value, {"what": what, "beside": where in ("parallel", "overlap")})
    except StageError:
        code = 1
    except WorkflowError:
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    threads = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
    note(f"threads {threads}")
    try:
        os.waitpid(-1, os.WNOHANG)
        note("a child is left")
    except ChildProcessError:
        note("no child")
    return code


def start(folder: Path, where: str, what: str) -> int:
    """Fork a process that runs a cell in its folder."""
    folder.mkdir()
    pid = os.fork()
    if pid:
        return pid
    os.chdir(folder)
    code = 70
    try:
        code = cell(where, what)
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait_for_log(folder: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (folder / "log").exists() and text in (folder / "log").read_text():
            return
        time.sleep(0.005)


def main(folder: Path) -> None:
    cells = [(where, what) for where in WHERE for what in WHAT] + list(EXTRA)
    cells.append(("process", "SIGKILL"))  # of the run, while its stage is in a process
    for where, what in cells:
        here = folder / f"{where}-{what}"
        pid = start(here, where, what)
        if what.startswith("SIG"):
            wait_for_log(here, "began")
            os.kill(pid, getattr(signal, what))
        _, status = os.waitpid(pid, 0)
        log = (here / "log").read_text().splitlines() if (here / "log").exists() else []
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"cell": f"{where}-{what}", "code": code, "log": log}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
