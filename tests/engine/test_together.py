"""`parallel`, `fan_out`, `scope` and `switch`: in order, apart, and nothing left over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, Rng, arun, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import (
    Stage,
    StageNode,
    Workflow,
    case,
    fan_out,
    loop,
    parallel,
    scope,
    stage,
    switch,
    when,
    workflow,
)
from crucible_kitchen.ports import MetricsStore


def meeting(count: int) -> tuple[Callable[[], None], Callable[[], Any]]:
    """A sync and an async function that return only when `count` calls are inside at once."""
    both = threading.Barrier(count, timeout=10)

    def meet() -> None:
        both.wait()

    async def meet_async() -> None:
        await asyncio.get_running_loop().run_in_executor(None, both.wait)

    return meet, meet_async


def named(function: Callable[..., Any], *names: str) -> list[Any]:
    return [stage(function).with_(name=name) for name in names]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_members_run_at_once_sync_and_async() -> None:
    meet, meet_async = meeting(3)
    run(workflow("w")[parallel("p")[named(meet, "a", "b"), named(meet_async, "c")]])
    meet, meet_async = meeting(2)
    asyncio.run(arun(workflow("w")[parallel("p")[named(meet, "a"), named(meet_async, "b")]]))


def test_copies_run_at_once_sync_and_async() -> None:
    for function in meeting(4):
        run(workflow("w")[fan_out("f", over=range(4), max_concurrency=4)[stage(function)]])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_no_more_than_wanted_run_at_once(width: int) -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1

    run(workflow("w")[parallel("p", max_concurrency=width)[named(work, *"abcdef")]])
    assert most == width
    most = 0
    run(workflow("w")[fan_out("f", over=range(6), max_concurrency=width)[stage(work)]])
    assert most == width


@stage(writes="square")
def square(item: int, rng: Rng, *, metrics: Metrics) -> int:
    time.sleep(0.002 * (item % 3))
    metrics.record("item", item)
    return item * item


def test_results_and_metrics_are_in_the_order_of_the_items() -> None:
    value = workflow("w")[fan_out("f", over="items", collect="square")[square.bind(item="f.item")]]
    result = run(value, {"items": range(9)})
    assert result.context.state.f.square == [i * i for i in range(9)]
    assert [m.value for m in result.metrics] == list(range(9))
    assert list(result.context.state) == ["f.square"]
    assert run(value, {"items": ()}).context.state.f.square == []


def test_copies_see_the_state_before_the_block_and_nothing_of_each_other() -> None:
    @stage(writes="count")
    def up(count: int, ctx: Context) -> int:
        assert ctx.state.count == count
        assert "square" not in ctx.state
        return count + 1

    @stage(writes="count")
    def start() -> int:
        return 5

    value = workflow("w")[
        start,
        fan_out("f", over=range(4), collect={"count": "counts"})[
            up, up.with_(name="again"), square.bind(item="f.index")
        ],
    ]
    state = run(value).context.state
    assert state.counts == [7] * 4
    assert state.count == 5


def test_a_collected_key_that_an_opaque_stage_did_not_write() -> None:
    class Opaque(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.put_state("found", 1) if ctx.state["f.item"] else ctx

    value = workflow("w")[fan_out("f", over="items", collect="found")[Opaque]]
    assert run(value, {"items": [1, 2]}).context.state.f.found == [1, 1]
    with pytest.raises(StageError, match=r"w/f .*collects 'found', which copy 1 did not write"):
        run(value, {"items": [1, 0]})


def test_the_first_error_in_the_text_is_raised_at_any_concurrency() -> None:
    said: list[str] = []

    def late() -> None:
        time.sleep(0.05)
        raise ValueError("late")

    def early() -> None:
        raise KeyError("early")

    def note() -> None:
        said.append("closed")

    late_one, early_one = stage(late), stage(early)
    for width in (1, 2, 3):
        value = workflow("w")[
            parallel("p", max_concurrency=width)[named(lambda: None, "a"), late_one, early_one]
        ].finally_[stage(note)]
        with pytest.raises(StageError, match="ValueError: late") as caught:
            run(value)
        assert caught.value.stage == "w/p/late"
        assert any(f.name == "late" for f in _frames(caught.value.__cause__))
    assert said == ["closed"] * 3


def _frames(error: BaseException | None) -> list[Any]:
    import traceback

    assert error is not None
    return list(traceback.extract_tb(error.__traceback__))


def test_after_an_error_nothing_more_begins_and_what_runs_is_waited_for() -> None:
    said: list[Any] = []
    begun = threading.Event()

    @stage
    def work(item: int) -> None:
        if item == 1:
            begun.wait(10)
            raise ValueError("no")
        begun.set()
        time.sleep(0.1)
        said.append(item)

    value = workflow("w")[fan_out("f", over=range(50), max_concurrency=2)[work.bind(item="f.item")]]
    with pytest.raises(StageError) as caught:
        run(value)
    assert caught.value.stage == "w/f[1]/work"
    assert said == [0]


@pytest.mark.parametrize("width", [1, 3])
def test_what_came_before_the_error_in_the_text_is_in_the_last_context(width: int) -> None:
    def write(key: str, fails: bool = False) -> Any:
        def go(*, metrics: Metrics) -> int:
            metrics.record(key, 1)
            if fails:
                raise ValueError(key)
            return 1

        go.__annotations__.update(metrics=Metrics)
        return stage(writes=key)(go).with_(name=key)

    last: list[Context] = []
    block = parallel("p", max_concurrency=width)[
        write("a"), scope("s")[write("x"), write("b", fails=True)], write("c")
    ]
    with pytest.raises(StageError):
        run(workflow("w")[block], on_context=last.append)
    assert dict(last[0].state) == {"a": 1, "s.x": 1}
    assert last[0].metrics.names() == ["a", "x", "b"]


def test_events_and_handlers_need_no_lock_of_their_own() -> None:
    inside = 0
    events: list[Event] = []

    def handler(event: Event) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        time.sleep(0.0005)
        events.append(event)
        inside -= 1

    value = workflow("w")[
        fan_out("f", over=range(6), max_concurrency=3)[square.bind(item="f.item")]
    ]
    run(value, handlers=[handler])
    blocks = [(e.kind, e.path, e.block, e.total) for e in events if e.kind.startswith("block")]
    assert blocks == [
        ("block.start", "w/f", "fan_out", 6),
        ("block.stop", "w/f", "fan_out", None),
    ]
    assert sorted(e.path for e in events if e.kind == "iteration.start") == [
        f"w/f[{i}]" for i in range(6)
    ]
    assert sorted(e.path for e in events if e.kind == "metric") == [f"w/f[{i}]" for i in range(6)]


class Store(MetricsStore):
    def __init__(self) -> None:
        self.inside, self.rows = 0, []

    def record(self, run: Any, name: str, value: float, **more: Any) -> None:
        self.inside += 1
        assert self.inside == 1
        time.sleep(0.0005)
        self.rows.append(value)
        self.inside -= 1

    def flush(self, run: Any) -> None: ...

    def read(self, run: Any) -> list[Any]:
        return []

    def get_history(self, run: Any, name: str, **bounds: Any) -> list[Any]:
        return []


def test_the_metrics_store_gets_one_record_at_a_time() -> None:
    store = Store()
    block = fan_out("f", over=range(9), max_concurrency=3)[square.bind(item="f.item")]
    run(workflow("w")[block], adapters={"metrics_store": store})
    assert sorted(store.rows) == list(range(9))


class Meta(Stage):
    reads = ()
    writes = ("m",)

    def execute(self, ctx: Context) -> Context:
        ctx = ctx.record_metric("m", 1.0)
        assert ctx.metrics.latest("m") == 1.0
        return ctx.put_state("m", 1).put_metadata("note", "x")


@pytest.mark.parametrize("block", [parallel("p"), scope("s"), fan_out("f", over=[1, 2])])
def test_metadata_and_metrics_of_class_stages_stay(block: Any) -> None:
    result = run(workflow("w")[block[Meta]])
    assert result.context.metadata.note == "x"
    assert result.metrics.names() == ["m"]


def test_a_scope_has_its_own_names() -> None:
    @stage(writes="x")
    def up(x: int = 0) -> int:
        return x + 1

    @stage(writes="x")
    def ten() -> int:
        return 10

    value = workflow("w")[
        ten,
        loop("l", over=range(3))[scope("a")[up, scope("b")[up]], scope("c")[up.bind(x="a.x")]],
    ]
    state = dict(run(value).context.state)
    assert state == {"x": 10, "a.x": 13, "a.b.x": 14, "c.x": 14}


@pytest.mark.parametrize("width", [1, None])
def test_a_scope_inside_another_knows_nothing_of_one_of_its_name_outside(width: int | None) -> None:
    """Neither where it comes after it nor where it runs beside it."""
    seen: list[Any] = []

    @stage(writes="b")
    def up(b: int = 0) -> int:
        return b + 1

    class Look(Stage):
        def execute(self, ctx: Context) -> Context:
            seen.append({key: ctx.state[key] for key in ctx.state})
            return ctx

    a = stage(writes="a")(lambda: 7).with_(name="a")
    inner = scope("s")[a]
    value = workflow("w")[
        loop("l", over=range(2))[scope("s")[up], scope("t")[inner, scope("u")[up]]],
        scope("t")[Look, scope("s")[up]],
    ]
    state = dict(run(value, max_concurrency=width).context.state)
    assert state == {"s.b": 2, "t.s.a": 7, "t.u.b": 2, "t.s.b": 1}
    assert seen == [{"t.s.a": 7, "t.u.b": 2, "s.a": 7, "u.b": 2}]


def test_a_scope_in_class_stages_and_predicates() -> None:
    seen: list[Any] = []

    class Look(Stage):
        def execute(self, ctx: Context) -> Context:
            seen.append((ctx.state.x, ctx.current_stage))
            return ctx.put_state("y", ctx.state.x + 1)

    x = stage(writes="x")(lambda: 1).with_(name="x")
    result = run(workflow("w")[scope("s")[x, when(lambda x: x == 1)[Look]]])
    assert seen == [(1, "w/s/when/look")]
    assert dict(result.context.state) == {"s.x": 1, "s.y": 2}


def test_switch_runs_the_case_or_otherwise_or_says_what_there_is() -> None:
    def says(text: str) -> StageNode:
        return stage(writes="did")(lambda: text).with_(name=text)

    a, b, c = map(says, "abc")
    chosen = switch("m")[case("x", "y")[a], case(3, None)[b]]
    value = workflow("w")[chosen.otherwise[c]]
    for given, did in (("x", "a"), ("y", "a"), (3, "b"), (None, "b"), ("z", "c")):
        assert run(value, {"m": given}).context.state.did == did
    with pytest.raises(StageError, match="no case for 'xx', only for 'x', 'y', 3") as caught:
        run(workflow("w")[chosen], {"m": "xx"})
    assert caught.value.stage == "w/m"
    events: list[Event] = []
    run(value, {"m": "y"}, handlers=[events.append])
    assert [e.path for e in events if e.kind == "stage.start"] == ["w/m/x_y/a"]
    with pytest.raises(StageError, match="unhashable"):
        run(workflow("w")[chosen], {"m": []})


class Guide(Workflow):
    body = [  # noqa: RUF012 - as users write it
        fan_out("f", over="rates", collect="square")[
            switch("kind")[case("odd")[square.bind(item="f.item")]].otherwise[
                square.bind(item=0).with_(name="zero")
            ]
        ]
    ]

    def rates(self, ctx: Context) -> range:
        return range(ctx.config.n)

    def kind(self, ctx: Context) -> str:
        return "odd" if ctx.state["f.item"] % 2 else "even"


def test_the_class_form() -> None:
    assert run(Guide, {"n": 4}).context.state.f.square == [0, 1, 0, 9]


def test_cancelling_arun_ends_the_members() -> None:
    said: list[str] = []
    started = threading.Barrier(3, timeout=10)

    async def wait() -> None:
        try:  # it may be told so before it is told that all have begun
            await asyncio.get_running_loop().run_in_executor(None, started.wait)
            await asyncio.sleep(20)
        finally:
            said.append("cancelled")

    def close() -> None:
        said.append("closed")

    def never() -> None:
        said.append("never")

    async def main() -> None:
        value = workflow("w")[parallel("p")[named(wait, "a", "b")], stage(never)]
        task = asyncio.ensure_future(arun(value.finally_[stage(close)]))
        await asyncio.get_running_loop().run_in_executor(None, started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert said == ["cancelled", "cancelled", "closed"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("block", ["parallel('p')[work, more]", "fan_out('f', over=[1, 2])[work]"])
def test_ctrl_c_waits_for_the_members_and_cleans_up(kind: str, block: str) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, os, threading, time
        from crucible_kitchen.engine import run
        from crucible_kitchen.graph import fan_out, parallel, stage, workflow

        def say(line):  # whole lines, from any thread
            os.write(1, f"{{line}}\\n".encode())

        async def work_async():
            try:
                say("begun")
                await asyncio.sleep(30)
            finally:
                say("ended")

        def work_sync():
            say("begun")
            time.sleep(1)
            say("ended")

        work = stage(work_{kind}).with_(name="work")
        more = work.with_(name="more")
        never = stage(lambda: say("never")).with_(name="never")
        close = stage(lambda: say("closed")).with_(name="close")
        try:
            run(workflow("w")[{block}, never].finally_[close])
        except KeyboardInterrupt:
            say(f"interrupted {{threading.active_count()}}")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline().strip(), process.stdout.readline().strip()]
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert [*lines, *rest.split("\n")] == [
        *["begun"] * 2,
        *["ended"] * 2,
        "closed",
        "interrupted 1",
        "",
    ]
    assert process.returncode == 0
