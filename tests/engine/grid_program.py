"""Runs that end badly, each in a process of its own, and are taken up again in another one.

Run as a program it prints one JSON object a line, which `test_grid` looks at. Processes are forked
from one that has imported the engine, so that a cell of the grid costs milliseconds.
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
from pathlib import Path
from typing import Any

from crucible_kitchen.engine import run
from crucible_kitchen.engine.journal import has_journal, read_journal
from crucible_kitchen.errors import StageError, WorkflowError
from crucible_kitchen.graph import async_loop, loop, parallel, stage, workflow

WHERE = ("sync", "async", "thread", "process", "parallel", "loop")
WHAT = ("error", "timeout", "SIGINT", "SIGTERM", "crash")
EXTRA = (("async_loop", "SIGINT"), ("async_loop", "SIGTERM"), ("overlap", "error"))
CALM = Path("calm")
"""While this file is there, nothing bad happens."""


def note(text: str, file: str = "log") -> None:
    """One more line in a file of this run's folder, in one write."""
    with open(file, "ab", buffering=0) as to:
        to.write(f"{text}\n".encode())


def begin(what: str, seconds: float = 30) -> None:
    """Say where it runs, then do what is asked for: now, or by waiting for it."""
    if CALM.exists():
        return
    note(f"began {os.getpid()}")
    if what == "error":
        raise ValueError("no")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)


@stage(writes="before")
def prepare() -> int:
    note("prepared", "did")
    return 41


@stage
def record(x: int = 0) -> None:
    note(f"x {x}", "did")


@stage(writes="x")
def act_sync(what: str, before: int) -> int:
    begin(what)
    return before + 1


@stage(writes="x", executor="thread")
def act_thread(what: str, before: int) -> int:
    begin(what, 0.6)  # nobody can end it
    return before + 1


@stage(writes="x", executor="process")
def act_process(what: str, before: int) -> int:
    begin(what)
    return before + 1


BESIDE = threading.Event()
"""Set when the sibling has begun."""


@stage(writes="x")
async def act_async(what: str, beside: bool, before: int) -> int:
    while beside and not BESIDE.is_set():
        await asyncio.sleep(0.001)
    try:
        begin(what, 0)
        await asyncio.sleep(0 if CALM.exists() else 30)
    except asyncio.CancelledError:
        note("act cancelled")
        raise
    return before + 1


@stage(writes="y")
async def sibling() -> int:
    BESIDE.set()
    try:
        await asyncio.sleep(0 if CALM.exists() else 30)
    except asyncio.CancelledError:
        note("sibling cancelled")
        raise
    return 1


@stage
def tell() -> None:
    note("told")


@stage
def close() -> None:
    note("closed")


def make() -> int:
    time.sleep(0.001)
    return 1


@stage(writes="x")
def third_time(index: int, what: str, before: int) -> int:
    if index == 3:
        begin(what)
    return index + before - 41


async def third_time_async(index: int, what: str, before: int) -> int:
    if index == 3:
        begin(what, 0)
        await asyncio.sleep(0 if CALM.exists() else 30)
    return index + before - 41


def body(where: str, what: str) -> Any:
    limit = {"timeout": 0.5} if what == "timeout" else {}
    if where == "parallel":
        return parallel("p")[act_async.with_(**limit), sibling]
    if where == "overlap":
        return [act_async, sibling]
    if where == "loop":
        last = stage(writes="x")(third_time_async) if limit else third_time
        return loop("l", over=range(6))[last.bind(index="l.index").with_(**limit), record]
    if where == "async_loop":
        made = async_loop("l", producer=make, stop_when=lambda x=0: x == 5)
        return made[third_time.bind(index="l.index"), record]
    stages = {
        "sync": act_sync,
        "async": act_async,
        "thread": act_thread,
        "process": act_process,
    }
    return stages[where].with_(**limit)


def cell(where: str, what: str) -> int:
    """Run one cell as the command line does, or go on with it; its exit code."""
    warnings.simplefilter("ignore", RuntimeWarning)
    last = record.with_(name="record_last")
    value = workflow("w")[prepare, body(where, what), last].on_error[tell].finally_[close]
    config = {"what": what, "beside": where in ("parallel", "overlap")}
    again, code = has_journal(Path("run")), 0
    try:
        run(value, config, run_dir="run", checkpoint="stage", resume=again)
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
    folder.mkdir(exist_ok=True)
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


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def ended(folder: Path, where: str, what: str) -> dict[str, Any]:
    """Run a cell to its bad end: what it left."""
    pid = start(folder, where, what)
    if what.startswith("SIG"):
        wait_for_log(folder, "began")
        os.kill(pid, getattr(signal, what))
    code = code_of(pid)
    return {"cell": f"{where}-{what}", "code": code, "log": lines_of(folder / "log")}


def resumed(folder: Path, where: str, what: str) -> dict[str, Any]:
    """Go on with a cell while nothing bad happens: where it stood, and what it came to."""
    at = read_journal(folder / "run").main.at
    (folder / "log").unlink()
    (folder / CALM).touch()
    code = code_of(start(folder, where, what))
    return {"at": at, "resumed": code, "log_resumed": lines_of(folder / "log"), **came_to(folder)}


def came_to(folder: Path) -> dict[str, Any]:
    finished = read_journal(folder / "run").finished
    return {"did": lines_of(folder / "did"), "state": finished}


def calm(folder: Path, where: str) -> dict[str, Any]:
    """A cell in which nothing bad happens: what the others must come to."""
    folder.mkdir()
    (folder / CALM).touch()
    code = code_of(start(folder, where, "error"))
    return {"cell": f"{where}-calm", "code": code, **came_to(folder)}


def main(folder: Path) -> None:
    cells = [(where, what) for where in WHERE for what in WHAT] + list(EXTRA)
    cells.append(("process", "SIGKILL"))  # of the run, while its stage is in a process
    for where in dict(cells):
        print(json.dumps(calm(folder / where, where)), flush=True)
    for where, what in cells:
        here = folder / f"{where}-{what}"
        told = ended(here, where, what)
        if has_journal(here / "run"):
            told |= resumed(here, where, what)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
