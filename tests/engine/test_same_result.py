"""Random programs give the same result at any concurrency, and killed anywhere and resumed."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible_kitchen.adapters.files import MetricsStore
from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, Every, Rng, overlap, race, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import (
    Block,
    FanOut,
    Node,
    Parallel,
    StageNode,
    Workflow,
    async_loop,
    fan_out,
    find_problems,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    when,
    workflow,
)
from crucible_kitchen.graph.keys import is_concurrent

KEYS = "abcd"


def work(read: int, other: int, *, rng: Rng, metrics: Metrics) -> int:
    """Mixes what it reads with random numbers, takes its time, and fails now and then."""
    number = int(rng.integers(1000))
    time.sleep((number % 4) * 2e-4)
    metrics.record("number", number, step=read)
    if number >= 990:
        raise ValueError(f"{number} of {read} and {other}")
    return (31 * read + 17 * other + number) % 10_007


async def work_async(read: int, other: int, *, rng: Rng, metrics: Metrics) -> int:
    return work(read, other, rng=rng, metrics=metrics)


START = [stage(writes=key)(lambda n=i: n).with_(name=f"start_{key}") for i, key in enumerate(KEYS)]  # type: ignore[misc]


@st.composite
def stages(draw: st.DrawFn, keys: str) -> StageNode:
    function = draw(st.sampled_from([work, work, work_async]))
    key = st.sampled_from(keys)
    node = stage(writes="out")(function)
    return node.bind(read=draw(key), other=draw(key), writes=draw(key))


@st.composite
def bodies(draw: st.DrawFn, depth: int = 3, keys: str = KEYS) -> list[Any]:
    kinds = ["stage", "stage"]
    if depth:
        kinds += ["loop", "when", "parallel", "fan_out", "scope", "stream_loop", "async_loop"]
    nodes: list[Any] = []
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(kinds))
        name = f"{kind}_{depth}{number}"
        inside = bodies(depth - 1, keys)
        if kind == "stage":
            nodes.append(draw(stages(keys)).with_(name=name))
        elif kind == "parallel":
            members = draw(independent(depth - 1, keys))
            nodes.append(parallel(name)[members])
        elif kind == "fan_out":
            collect = draw(st.sampled_from(keys))
            body = [draw(inside), draw(stages(keys)).bind(writes=collect).with_(name="last")]
            block = fan_out(name, over=range(draw(st.integers(0, 4))), collect=collect)
            total = stage(writes="out")(sum_up).bind(every=f"{name}.{collect}", writes=collect)
            nodes += [block[body], total.with_(name=f"sum_{number}")]
        elif kind == "when":
            branch = when(odd(draw(st.sampled_from(keys))))[draw(inside)]
            nodes.append(branch.otherwise[draw(inside)])
        elif kind == "async_loop":
            # From the newest state of all: else what an item is made from is left to chance.
            made = {"producer": making(draw(st.sampled_from(keys))), "max_staleness": 0}
            block = async_loop(name, stop_when="enough", **made)
            use = draw(stages(keys)).bind(other=f"{name}.item").with_(name="use")
            last = enough.bind(index=f"{name}.index", last=draw(st.integers(0, 2)))
            nodes += [reset.with_(name=f"reset_{number}"), block[use, draw(inside), last]]
        elif kind == "scope":
            nodes.append(scope(name)[draw(inside)])
        else:
            make = loop if kind == "loop" else stream_loop
            nodes.append(make(name, over=range(draw(st.integers(0, 3))))[draw(inside)])
    return nodes


@st.composite
def independent(draw: st.DrawFn, depth: int, keys: str) -> list[Any]:
    """Members that touch keys of their own, as validation demands."""
    members: list[Any] = []
    for number, share in enumerate((keys[::2], keys[1::2])):
        name = f"m{number}"
        if share and draw(st.booleans()):
            members.append(scope(name)[draw(bodies(depth, share))])
        elif share:
            members.append(draw(stages(share)).with_(name=name))
    return members


@stage(writes="enough")
def reset() -> bool:
    return False


@stage(writes="enough")
def enough(index: int, last: int) -> bool:
    return index >= last


def making(key: str) -> Any:
    """A producer that reads a key."""
    scope: dict[str, Any] = {"work": work, "Rng": Rng, "Metrics": Metrics}
    text = f"def make({key}: int, *, rng: Rng, metrics: Metrics) -> int:\n"
    exec(text + f"    return work({key}, 1, rng=rng, metrics=metrics)", scope)
    return scope["make"]


def sum_up(every: list[int]) -> int:
    return sum(every) % 10_007


def odd(key: str) -> Any:
    return {
        "a": lambda a: a % 2 == 1,
        "b": lambda b: b % 2 == 1,
        "c": lambda c: c % 2 == 1,
        "d": lambda d: d % 2 == 1,
    }[key]


def limited(node: Node, width: int | None) -> Node:
    """The same program with another concurrency everywhere."""
    if not isinstance(node, Block):
        return node
    changes: dict[str, Any] = {
        f"{label}_body" if label else "body": tuple(limited(child, width) for child in body)
        for label, body in node.regions
    }
    if isinstance(node, (Parallel, FanOut)):
        changes["max_concurrency"] = width
    return replace(node, **changes)


def outcome(value: Workflow, **options: Any) -> Any:
    last: list[Context] = []
    error = ""
    try:
        run(value, on_context=last.append, **options)
    except StageError as failure:
        error = str(failure)
    (context,) = last
    records = [(m.name, m.value, m.step) for m in context.metrics]
    return error, list(context.state.items()), records


@settings(max_examples=int(os.environ.get("CRUCIBLE_PROGRAMS", "60")), deadline=None)
@given(bodies())
def test_any_concurrency_gives_the_same_result(body: list[Any]) -> None:
    value = workflow("w")[START, body]
    assert find_problems(value) == []
    wanted = outcome(limited(value, 1), max_concurrency=1)  # type: ignore[arg-type]
    for width in (2, 3, None):
        got = outcome(limited(value, width))  # type: ignore[arg-type]
        assert got == wanted


class KillAt:
    """Kills the process before or after its n-th stage, and writes down which stages began."""

    def __init__(self, folder: Path, number: int | None, after: bool) -> None:
        self._file = os.open(folder / "begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._left, self._after, self._armed = number, after, False

    def __call__(self, event: Event) -> None:
        if event.kind not in ("stage.start", "stage.stop") and not self._armed:
            return
        if self._armed and event.kind not in ("metric", "checkpoint"):
            os.kill(os.getpid(), signal.SIGKILL)
        if event.kind == "stage.start":
            os.write(self._file, f"{event.path}\n".encode())
        if self._left is not None and event.kind == (
            "stage.stop" if self._after else "stage.start"
        ):
            self._left -= 1
            if self._left < 0 and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            self._armed = self._left < 0

    def close(self) -> None:
        os.close(self._file)


def in_a_process(work: Callable[[], object]) -> int:
    """Run something in a process of its own; its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def outcome_in(folder: Path, value: Workflow, **options: Any) -> Any:
    """`outcome` of a run with a folder, of which it keeps events and metrics."""
    store = {"metrics_store": (MetricsStore, {"path": str(folder)})}
    handlers = ["jsonl", *options.pop("handlers", ())]
    return outcome(value, adapters=store, run_dir=folder, handlers=handlers, **options)


def written(folder: Path) -> tuple[list[str], list[str]]:
    """Events and metrics as they stand in their files, without what the clock says."""
    files = []
    for name in ("events.jsonl", "metrics.jsonl"):
        path = folder / name
        rows = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        rows = (row for row in rows if row.get("kind") != "checkpoint")
        ignored = ("time", "duration_s", "run_id", "metadata")
        files.append([str({k: v for k, v in row.items() if k not in ignored}) for row in rows])
    return files[0], files[1]


def committed(folder: Path) -> set[str]:
    """Ids of what the journal says has been done, at whatever time it said so."""
    lines = (folder / "journal" / "journal.jsonl").read_bytes().split(b"\n")[1:-1]
    done = set()
    for commit in [one for line in lines for one in json.loads(line).get("commits", ())]:
        if "in" not in commit and "at" in commit:
            done.add(commit["at"])
        loops = commit.get("made") or {
            where: loop.get("made", {}) for where, loop in commit.get("loops", {}).items()
        }
        done |= {f"{where}[{n}]/producer" for where, made in loops.items() for n in made}
    return done


WIDTHS = st.sampled_from([1, 3, None])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bodies(),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(["stage", Every(3, False)]),
    WIDTHS,
    WIDTHS,
)
def test_killed_anywhere_it_goes_on_as_if_nothing_had_been(
    monkeypatch: pytest.MonkeyPatch,
    body: list[Any],
    number: int,
    after: bool,
    checkpoint: Any,
    width: int | None,
    width_then: int | None,
) -> None:
    """Also where it goes on with more or less at once, and all that may overlap does."""
    monkeypatch.setattr(overlap, "LONG_S", 0.0)
    value = workflow("w")[START, body]
    ordered = width == width_then == 1 and not is_concurrent(value)
    with tempfile.TemporaryDirectory() as name:
        whole, stopped = Path(name) / "whole", Path(name) / "stopped"
        stopped.mkdir()
        wanted = outcome_in(whole, value, max_concurrency=1)
        handler = KillAt(stopped, number, after)
        options = {"checkpoint": checkpoint, "handlers": [handler], "max_concurrency": width}
        killed = os.WIFSIGNALED(in_a_process(lambda: outcome_in(stopped, value, **options)))
        handler.close()
        before, done = (stopped / "begun").read_text().split(), committed(stopped)
        handlers = [KillAt(stopped, None, after)]
        got = outcome_in(stopped, value, resume=True, handlers=handlers, max_concurrency=width_then)
        assert got == wanted
        (events, metrics), (events_wanted, metrics_wanted) = written(stopped), written(whole)
        if not ordered and wanted[0]:
            pass  # how far the others come while one fails is left to chance
        elif not ordered:
            assert Counter(events) == Counter(events_wanted)
            assert Counter(metrics) == Counter(metrics_wanted)
        else:
            assert events == events_wanted
            assert metrics == metrics_wanted
        again = (stopped / "begun").read_text().split()[len(before) :]
        assert not done & set(again)
        if killed and checkpoint == "stage" and ordered:
            assert len(set(before) & set(again)) == (0 if after else 1)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bodies(depth=2), st.sampled_from([2, 3, None]))
def test_overlap_gives_the_same_result(
    monkeypatch: pytest.MonkeyPatch, body: list[Any], width: int | None
) -> None:
    """Also where everything that may overlap does, however short it is."""
    monkeypatch.setattr(overlap, "LONG_S", 0.0)
    monkeypatch.setattr(race, "PATIENCE_S", 0.0)
    value = workflow("w")[START, loop("again", over=range(2))[body]]
    assert outcome(value, max_concurrency=width) == outcome(value, max_concurrency=1)
