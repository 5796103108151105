"""Independent neighbours run at once where it pays, and nobody can tell from the result."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crucible_kitchen import ports
from crucible_kitchen.adapters.files import MetricsStore
from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, arun, overlap, race, run
from crucible_kitchen.errors import PortError, StageError
from crucible_kitchen.graph import Stage, StageNode, loop, scope, stage, when, workflow
from crucible_kitchen.graph.overlap import groups
from crucible_kitchen.ports import BlobStore
from crucible_kitchen.testing import FakePort

NAP = 0.05


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def doing(key: str, function: Callable[[], object], *reads: str) -> StageNode:
    """A stage called as the key it writes."""
    scope: dict[str, Any] = {"function": function}
    exec(f"def f({', '.join(reads)}):\n    return function()", scope)
    return stage(writes=key)(scope["f"]).with_(name=key)


def napping(key: str, *reads: str) -> StageNode:
    return doing(key, lambda: time.sleep(NAP), *reads)


def seconds(value: Any, **options: Any) -> float:
    began = time.perf_counter()
    run(value, **options)
    return time.perf_counter() - began


DIAMOND = workflow("w")[
    napping("a"),
    napping("b", "a"),
    napping("c", "a"),
    napping("d", "a"),
    napping("e", "b", "c", "d"),
]


def test_makespan_is_the_critical_path() -> None:
    """The best of some: others may keep the machine busy. On a quiet one it is within 1.05."""
    assert min(seconds(DIAMOND) for _ in range(5)) < 3 * NAP * 1.25
    assert seconds(DIAMOND, max_concurrency=1) >= 5 * NAP
    assert seconds(DIAMOND, max_concurrency=2) >= 4 * NAP


def test_they_overlap_under_a_journal_too(tmp_path: Path) -> None:
    kept = [
        seconds(DIAMOND, run_dir=tmp_path / str(number), checkpoint="stage") for number in range(5)
    ]
    assert min(kept) < 3 * NAP * 1.25


def test_a_chain_beside_a_chain_does_not_wait_for_it() -> None:
    """No barrier: what stands behind a short one begins while the long one runs."""
    order: list[str] = []
    done = threading.Event()

    def long() -> None:
        assert done.wait(10)
        order.append("long")

    def last() -> None:
        order.append("last")
        done.set()

    value = workflow("w")[doing("a", long), napping("b"), napping("c", "b"), doing("d", last, "c")]
    run(value)
    assert order == ["last", "long"]


def test_async_stages_and_blocks_overlap_too() -> None:
    both = threading.Barrier(2, timeout=10)

    @stage(writes="x")
    async def wait() -> int:
        await asyncio.get_running_loop().run_in_executor(None, both.wait)
        return 1

    inner = loop("l", over=range(2))[
        when(lambda: True)[scope("s")[doing("y", lambda: both.wait())]]
    ]
    with_loop = workflow("w")[loop("k", over=range(2))[wait], inner]
    result = run(with_loop)
    assert result.context.state.x == 1
    assert "s.y" in result.context.state
    both.reset()
    assert asyncio.run(arun(with_loop)).context.state.x == 1


def test_a_scope_finds_what_one_of_its_name_wrote_beside_something_slow(tmp_path: Path) -> None:
    @stage(writes="y")
    def read(x: int = 0) -> int:
        return x

    value = workflow("w")[
        napping("a"),
        loop("first", over=range(1))[scope("s")[doing("x", lambda: time.sleep(0.002) or 1)]],
        loop("then", over=range(1))[scope("s")[read]],
    ]
    assert run(value).context.state["s.y"] == 1
    assert run(value, run_dir=tmp_path, checkpoint="stage").context.state["s.y"] == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What stages take is what they add to it, whatever else the machine does."""
    now = SimpleNamespace(seconds=0.0)
    for module in (overlap, race):
        monkeypatch.setattr(module, "perf_counter", lambda: now.seconds)
    return now


def test_short_stages_stay_in_the_thread_of_the_run(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "PATIENCE_S", 60.0)
    names: list[str] = []

    def note() -> None:
        names.append(threading.current_thread().name)

    body = [doing(key, note) for key in "abc"]
    run(workflow("w")[loop("l", over=range(50))[body]])
    assert names == [threading.current_thread().name] * 150


def test_it_notices_that_a_stage_takes_longer_now(clock: Any) -> None:
    meet = threading.Barrier(2, timeout=10)
    met: list[int] = []

    def work(number: int = 0) -> int:
        if number >= 5:
            clock.seconds += 0.01
        if number >= 8:
            met.append(meet.wait())
        return number

    body = [stage(writes=key)(work).bind(number="l.index").with_(name=key) for key in "ab"]
    run(workflow("w")[loop("l", over=range(10))[body]])
    assert len(met) == 4


def test_the_first_error_in_the_text_is_the_one() -> None:
    ran: list[str] = []

    def fail(name: str, nap: float) -> Callable[[], None]:
        def run_it() -> None:
            time.sleep(nap)
            ran.append(name)
            raise ValueError(name)

        return run_it

    body = [doing("a", fail("late", 0.05)), doing("b", fail("early", 0.01)), napping("c", "b")]
    with pytest.raises(StageError, match="late") as caught:
        run(workflow("w")[body])
    assert caught.value.stage == "w/a"
    assert ran == ["early", "late"]


def test_a_failure_interrupts_what_stands_behind_it_and_nothing_before_it() -> None:
    said: list[str] = []

    @stage(writes="first")
    async def first() -> int:
        await asyncio.sleep(0.1)
        said.append("first")
        return 1

    @stage(writes="third")
    async def third() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            said.append("cancelled")

    def fail() -> None:
        time.sleep(0.02)
        raise ValueError("no")

    last: list[Context] = []
    value = workflow("w")[first, doing("second", fail), third].finally_[
        stage(lambda: said.append("closed")).with_(name="close")
    ]
    with pytest.raises(StageError, match="no"):
        run(value, on_context=last.append)
    assert sorted(said[:2]) == ["cancelled", "first"]
    assert said[2:] == ["closed"]
    assert dict(last[0].state) == {"first": 1}


def test_metrics_events_and_keys_are_those_of_one_after_the_other() -> None:
    def record(name: str, nap: float) -> Callable[..., int]:
        def work(*, metrics: Metrics) -> int:
            time.sleep(nap)
            metrics.record(name, nap)
            return 1

        return work

    body = [
        stage(writes=key)(record(key, nap)).with_(name=key)
        for key, nap in (("z", 0.03), ("y", 0.01), ("x", 0.02))
    ]
    events: list[Event] = []
    result = run(workflow("w")[body], handlers=[events.append])
    assert [m.name for m in result.metrics] == ["z", "y", "x"]
    assert list(result.context.state) == ["z", "y", "x"]
    stops = [e.path for e in events if e.kind == "stage.stop"]
    assert sorted(stops) == ["w/x", "w/y", "w/z"]


def test_a_metrics_store_gets_them_in_the_order_of_the_text(tmp_path: Path) -> None:
    """What comes first in it at once, the rest when it would have come one after the other."""
    store, may_end = MetricsStore(str(tmp_path)), threading.Event()

    def names() -> list[str]:
        return [point.name for point in store.read("r")]

    def first(*, metrics: Metrics) -> int:
        metrics.record("begun", 1)
        assert names() == ["begun"]
        assert may_end.wait(10)
        return 1

    def inner(item: int, *, metrics: Metrics) -> int:
        metrics.record(f"inner {item}", item)
        return item

    def last(y: int, *, metrics: Metrics) -> None:
        metrics.record("last", 1)
        assert names() == ["begun"]
        may_end.set()

    each = stage(writes="y")(inner).bind(item="l.item")
    value = workflow("w")[stage(writes="x")(first), loop("l", over=range(2))[each], stage(last)]
    result = run(value, adapters={"metrics_store": store}, metadata={"run_id": "r"})
    assert names() == ["begun", "inner 0", "inner 1", "last"]
    assert [record.name for record in result.metrics] == names()


def test_a_metrics_store_that_fails_later_fails_the_stage_that_recorded() -> None:
    begun = threading.Event()

    def first() -> int:
        assert begun.wait(10)
        return 1

    def second(*, metrics: Metrics) -> int:
        metrics.record("loss", 1)
        begun.set()
        return 2

    store = FakePort(ports.MetricsStore, record=PortError("full"), flush=None)
    value = workflow("w")[stage(writes="x")(first), stage(writes="y")(second)]
    with pytest.raises(StageError, match="PortError: full") as caught:
        run(value, adapters={"metrics_store": store})
    assert caught.value.stage == "w/second"


def test_what_a_stage_recorded_that_would_not_have_run_is_not_stored(tmp_path: Path) -> None:
    begun = threading.Event()

    def fail(*, metrics: Metrics) -> None:
        metrics.record("before", 1)
        assert begun.wait(10)
        raise ValueError("no")

    def behind(*, metrics: Metrics) -> int:
        metrics.record("behind", 1)
        begun.set()
        return 1

    store = MetricsStore(str(tmp_path))
    with pytest.raises(StageError, match="no"):
        run(
            workflow("w")[stage(writes="x")(fail), stage(writes="y")(behind)],
            adapters={"metrics_store": store},
            metadata={"run_id": "r"},
        )
    assert [point.name for point in store.read("r")] == ["before"]


def test_a_class_is_handed_everything_before_it_and_nothing_behind_it() -> None:
    seen: list[list[str]] = []

    class Look(Stage):
        writes = ("seen",)

        def execute(self, ctx: Context) -> Context:
            seen.append(sorted(ctx.state))
            return ctx.put_state("seen", 1)

    run(workflow("w")[napping("a"), napping("b"), Look, napping("c"), napping("d")])
    assert seen == [["a", "b"]]


def test_stages_that_write_nothing_keep_their_order() -> None:
    said: list[str] = []

    def effect(name: str, nap: float) -> StageNode:
        def act(key: int) -> None:
            time.sleep(nap)
            said.append(name)

        return stage(act).with_(name=name)

    run(workflow("w")[effect("first", 0.02), effect("second", 0.0), napping("a")], {"key": 1})
    assert said == ["first", "second"]


def test_clean_up_is_one_after_the_other() -> None:
    said: list[str] = []
    body = [
        doing("a", lambda: (time.sleep(0.02), said.append("a"))),
        doing("b", lambda: said.append("b")),
    ]
    run(workflow("w")[napping("x")].finally_[body])
    assert said == ["a", "b"]


@pytest.mark.parametrize("wrong", [0, -1, True, "2", 1.5])
def test_a_wrong_limit_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be an int of at least 1, got"):
        run(DIAMOND, max_concurrency=wrong)


def test_what_the_most_waits_for_comes_first() -> None:
    """Known from an earlier run; with two at a time, the order of the text takes longer."""
    began: list[str] = []

    def one(key: str, naps: int, *reads: str) -> StageNode:
        def work() -> None:
            began.append(key)
            time.sleep(naps * NAP / 2)

        return doing(key, work, *reads)

    value = workflow("w")[
        one("a", 1), one("b", 1), one("c", 1), one("d", 1, "c"), one("e", 1, "d"), one("f", 1, "e")
    ]
    first = run(value, max_concurrency=2)
    assert began[0] == "a"
    began.clear()
    second = run(value, max_concurrency=2)
    assert "c" in began[:2]
    assert list(second.context.state) == list(first.context.state) == list("abcdef")


def test_a_wide_group_is_not_searched_again_and_again() -> None:
    """Two long chains of short stages: the engine's own work grows with their length alone."""

    def once(length: int) -> float:
        stages = [
            doing(f"{chain}{n}", lambda: None, *((f"{chain}{n - 1}",) if n else ()))
            for chain in "xy"
            for n in range(length)
        ]
        value = workflow("w")[stages]
        began = time.process_time()
        run(value)
        return (time.process_time() - began) / length

    small, large = (min(once(length) for _ in range(2)) for length in (40, 320))
    assert large < 4 * small


def test_other_adapters_make_other_groups_of_the_same_workflow() -> None:
    class OneAtATime(BlobStore):
        concurrent = False

    class ManyAtOnce(BlobStore):
        concurrent = True

    @stage(writes="a")
    def ask(*, blob_store: BlobStore) -> int:
        time.sleep(NAP / 2)
        return 1

    @stage(writes="y")
    def ask_more(x: object, a: int, *, blob_store: BlobStore) -> int:
        return a

    value = workflow("w")[napping("x"), ask, ask_more, ask.bind(writes="b").with_(name="ask_again")]
    for made, sizes in ((OneAtATime, [2]), (ManyAtOnce, [4]), (OneAtATime, [2])):
        assert [len(one.waits) for one in groups(value.body, {"blob_store": made})] == sizes
        adapter = type(made.__name__, (made,), dict.fromkeys(made.__abstractmethods__, None))()
        state = run(value, adapters={"blob_store": adapter}).context.state
        assert list(state) == ["x", "a", "y", "b"]


def test_a_group_goes_on_one_at_a_time_where_that_is_asked(tmp_path: Path) -> None:
    failing, active, most = [True], 0, 0

    def work() -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        time.sleep(0.01)
        active -= 1

    def fail() -> None:
        time.sleep(0.03)
        if failing:
            failing.clear()
            raise ValueError("no")
        work()

    value = workflow("w")[
        doing("a", work), doing("b", fail), doing("c", work), doing("d", work, "c")
    ]
    with pytest.raises(StageError, match="no"):
        run(value, run_dir=tmp_path, checkpoint="stage")
    most = 0
    run(value, run_dir=tmp_path, resume=True, max_concurrency=1)
    assert most == 1
