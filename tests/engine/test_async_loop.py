"""`async_loop`: both sides run at once, on state that is as new as it can be, and both end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, Rng, arun, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Stage, Workflow, async_loop, loop, parallel, stage, workflow


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@stage(writes="step")
def count(step: int = 0) -> int:
    return step + 1


def until(last: int) -> Callable[..., bool]:
    return lambda step=0: step >= last


def using(function: Callable[[Any], object]) -> Any:
    def use(item: Any) -> None:
        function(item)

    return stage(use).bind(item="l.item")


def test_items_come_in_the_order_they_were_made() -> None:
    made: list[int] = []
    seen: list[int] = []

    def produce() -> int:
        made.append(len(made))
        return made[-1]

    result = run(
        workflow("w")[
            async_loop("l", producer=produce, stop_when=until(5))[using(seen.append), count]
        ]
    )
    assert seen == [0, 1, 2, 3, 4]
    assert result.context.state.step == 5
    assert "l.item" not in result.context.state
    assert len(made) <= 5 + 4


def test_producer_and_body_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)
    numbers = iter(range(3))

    def produce() -> int:
        number = next(numbers)
        if number == 1:
            both.wait()  # only while item 0 is being used
        return number

    body = using(lambda item: both.wait() if item == 0 else None)
    run(workflow("w")[async_loop("l", producer=produce, stop_when=None)[body]])


def test_it_takes_half_the_time() -> None:
    """Both sides sleep; the best of some, and a bound with room for a busy machine."""
    rounds, nap = 12, 0.03

    def produce() -> None:
        time.sleep(nap)

    value = workflow("w")[
        async_loop("l", producer=produce, stop_when=until(rounds))[
            using(lambda item: time.sleep(nap)), count
        ]
    ]
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        run(value)
        spent.append(time.perf_counter() - began)
    assert 2 * rounds * nap / min(spent) > 1.6  # of at most 1.85


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_an_item_is_never_staler_than_allowed(staleness: int) -> None:
    late: list[int] = []

    def produce(step: int = 0) -> int:
        return step

    @stage
    def compare(made_at: int, step: int = 0) -> None:
        time.sleep(0.002)
        late.append(step - made_at)

    run(
        workflow("w")[
            async_loop(
                "l", producer=produce, stop_when=until(12), buffer=8, max_staleness=staleness
            )[compare.bind(made_at="l.item"), count]
        ]
    )
    assert max(late) == staleness  # the producer is faster, so it runs ahead as far as it may
    assert min(late) >= 0


def test_the_producer_sees_whole_iterations_only() -> None:
    pairs: list[tuple[int, int]] = []

    def produce(first: int = 0, second: int = 0) -> None:
        pairs.append((first, second))

    def one_more(number: int = 0) -> int:
        time.sleep(0.001)
        return number + 1

    body = [
        stage(writes="number")(one_more).bind(number=key, writes=key).with_(name=key)
        for key in ("first", "second")
    ]
    done = lambda second=0: second >= 20  # noqa: E731 - as a user writes it
    run(workflow("w")[async_loop("l", producer=produce, stop_when=done)[body]])
    assert all(first == second for first, second in pairs)
    assert pairs[-1] > (10, 10)


@pytest.mark.parametrize("buffer", [1, 3])
def test_it_is_never_further_ahead_than_its_buffer(buffer: int) -> None:
    made = 0
    changed = threading.Condition()
    seen: list[int] = []

    def produce() -> int:
        nonlocal made
        with changed:
            made += 1
            changed.notify_all()
        return made

    def use(item: int) -> None:
        with changed:
            assert changed.wait_for(lambda: made >= item + buffer, timeout=10)
        time.sleep(0.002)  # were there more to come, it would come now
        seen.append(made - item)

    run(
        workflow("w")[
            async_loop("l", producer=produce, stop_when=until(6), buffer=buffer)[using(use), count]
        ]
    )
    assert seen == [buffer] * 6


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_producer_may_end_it(kind: str) -> None:
    numbers = iter(range(3))
    seen: list[int] = []

    def produce() -> int:
        return next(numbers)

    async def produce_async() -> int:
        await asyncio.sleep(0)
        try:
            return next(numbers)
        except StopIteration:
            raise StopAsyncIteration from None

    producer = produce if kind == "sync" else produce_async
    run(workflow("w")[async_loop("l", producer=producer, stop_when=None)[using(seen.append)]])
    assert seen == [0, 1, 2]


def test_nothing_is_made_where_it_stops_at_once() -> None:
    def produce() -> None:
        raise AssertionError("nobody wants this")

    value = workflow("w")[async_loop("l", producer=produce, stop_when=until(1))[count]]
    result = run(workflow("w")[count, value.body])
    assert result.context.state.step == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_error_of_the_producer_comes_where_its_item_was_wanted(kind: str) -> None:
    seen: list[int] = []
    numbers = iter(range(9))

    def produce() -> int:
        number = next(numbers)
        if number == 2:
            raise OSError("disk")
        return number

    async def produce_async() -> int:
        await asyncio.sleep(0)
        return produce()

    producer = produce if kind == "sync" else produce_async
    with pytest.raises(StageError, match="OSError: disk") as caught:
        run(workflow("w")[async_loop("l", producer=producer, stop_when=None)[using(seen.append)]])
    assert caught.value.stage == "w/l[2]/producer"
    assert "test_async_loop.py:" in str(caught.value)
    assert seen == [0, 1]
    error = caught.value.__cause__
    assert error is not None
    assert any(f.name == "produce" for f in traceback.extract_tb(error.__traceback__))


def test_an_error_of_the_body_cancels_an_async_producer() -> None:
    said: list[str] = []
    waits = threading.Event()

    async def produce(step: int = 0) -> int:
        if step == 0 and not said:
            said.append("made")
            return 0
        try:
            waits.set()
            await asyncio.sleep(60)
        finally:
            said.append("cancelled")
        return 1

    def fail(item: int) -> None:
        assert waits.wait(10)
        raise ValueError("no")

    with pytest.raises(StageError, match="no") as caught:
        run(workflow("w")[async_loop("l", producer=produce, stop_when=None)[using(fail)]])
    assert caught.value.stage == "w/l[0]/use"
    assert said == ["made", "cancelled"]


def test_stopping_cancels_only_the_producer() -> None:
    """Beside it, in another member of a parallel block, an async stage goes on."""
    done: list[str] = []
    stopped = threading.Event()

    async def produce() -> int:
        if done:
            await asyncio.sleep(60)
        done.append("made")
        return 0

    @stage(writes="other")
    async def beside() -> int:
        while not stopped.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # the other member has ended its loop by now
        return 7

    @stage(writes="over")
    def tell(step: int) -> bool:
        stopped.set()
        return True

    made = async_loop("l", producer=produce, stop_when=until(1))[count, tell]
    assert run(workflow("w")[parallel("p")[made, beside]]).context.state.other == 7


def test_what_it_records_and_draws_belongs_to_the_item() -> None:
    events: list[Event] = []

    def produce(*, metrics: Metrics, rng: Rng, ctx: Context) -> float:
        metrics.record("made", len(events), step=ctx.get_state("step", 0))
        assert ctx.current_stage is not None
        return float(rng.random())

    drawn: list[list[float]] = [[], []]
    for seen in drawn:
        value = workflow("w")[
            async_loop("l", producer=produce, stop_when=until(4), max_staleness=1)[
                using(seen.append), count
            ]
        ]
        result = run(value, handlers=[events.append], seed=3)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4
    assert len(result.metrics.history("made")) == 4
    paths = [e.path for e in events if e.kind == "stage.stop"]
    assert "w/l[3]/producer" in paths
    assert paths.count("w/l[3]/use") == 2


def test_it_runs_again_inside_another_loop() -> None:
    def produce(step: int = 0) -> int:
        return step

    inner = async_loop("l", producer=produce, stop_when=lambda step=0: step % 3 == 2)[count]
    reset = stage(writes="step")(lambda step=0: step + 1).with_(name="reset")
    result = run(workflow("w")[loop("outer", over=range(3))[inner, reset]])
    assert result.context.state.step == 9


def test_the_class_form() -> None:
    class Use(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.put_state("seen", [*ctx.get_state("seen", []), ctx.state.rl.item])

    class Flow(Workflow):
        body = (async_loop("rl", producer="make", stop_when="enough")[Use],)

        def make(self, ctx: Context) -> int:
            return len(ctx.get_state("seen", []))

        def enough(self, ctx: Context) -> bool:
            return len(ctx.get_state("seen", [])) >= 3

    seen = run(Flow).context.state.seen
    assert len(seen) == 3
    assert seen[0] == 0


def test_cancelling_arun_ends_both() -> None:
    said: list[str] = []

    async def produce() -> int:
        said.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            said.append("cancelled")
        return 0

    @stage
    def close() -> None:
        said.append("closed")

    async def main() -> None:
        value = workflow("w")[async_loop("l", producer=produce, stop_when=None)[count]]
        task = asyncio.ensure_future(arun(value.finally_[close]))
        while not said:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert said == ["begun", "cancelled", "closed"]


def test_ctrl_c_ends_the_thread() -> None:
    program = textwrap.dedent(
        """
        import threading, time
        from crucible_kitchen.engine import run
        from crucible_kitchen.graph import async_loop, stage, workflow

        @stage
        def use():
            print("begun", flush=True)
            time.sleep(30)

        @stage
        def close(): print("closed", flush=True)

        body = async_loop("l", producer=lambda: time.sleep(0.01), stop_when=None)[use]
        try:
            run(workflow("w")[body].finally_[close])
        except KeyboardInterrupt:
            print("interrupted", threading.active_count(), flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert rest == "closed\ninterrupted 1\n"
