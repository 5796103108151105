"""Async stages, `arun`, timeouts, and runs side by side."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import arun, run
from crucible_kitchen.engine.bridge import Bridge
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Stage, loop, stage, when, workflow


@stage(writes="total")
async def add(item: int, total: int = 0) -> int:
    await asyncio.sleep(0)
    return total + item


SUM = workflow("sum")[loop("l", over="items")[add.bind(item="l.item")]]


def test_sync_and_async_stages_mix() -> None:
    @stage(writes="double")
    def double(total: int) -> int:
        return 2 * total

    class Later(Stage):
        async def execute(self, ctx: Context) -> Context:  # type: ignore[override]
            await asyncio.sleep(0)
            return ctx.put_state("later", ctx.state.double + 1)

    async def positive(total: int) -> bool:
        return total > 0

    value = workflow("w")[
        SUM.body, when("items")[double.bind(total=3)].otherwise[double.bind(total=0)], Later
    ]
    assert run(value, {"items": [1, 2]}).context.state.later == 7
    chosen = workflow("w")[add.bind(item=1), when(positive)[double]]
    assert run(chosen).context.state.double == 2


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    run(SUM, {"items": range(3)})
    assert threading.active_count() == before


def test_arun_runs_async_stages_in_the_loop_of_the_caller() -> None:
    loops: list[Any] = []

    @stage
    async def which() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        await arun(workflow("w")[which])
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_arun_does_not_block_the_loop() -> None:
    @stage
    def slow() -> None:
        time.sleep(0.2)

    async def main() -> int:
        ticks = 0
        task = asyncio.ensure_future(arun(workflow("w")[slow]))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await task
        return ticks

    assert asyncio.run(main()) > 3


def test_arun_raises_what_run_raises() -> None:
    @stage
    def boom() -> None:
        raise ValueError("no")

    with pytest.raises(StageError, match="ValueError: no"):
        asyncio.run(arun(workflow("w")[boom]))


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_cancelling_arun_cleans_up_first(kind: str) -> None:
    said: list[str] = []
    started = threading.Event()

    @stage
    async def wait_async() -> None:
        started.set()
        try:
            await asyncio.sleep(20)
        finally:
            said.append("cancelled")

    @stage
    def wait_sync() -> None:
        started.set()
        time.sleep(0.1)
        said.append("finished")

    @stage
    def never() -> None:
        said.append("never")

    @stage
    def close() -> None:
        said.append("closed")

    body = wait_async if kind == "async" else wait_sync

    async def main() -> None:
        task = asyncio.ensure_future(arun(workflow("w")[body, never].finally_[close]))
        while not started.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert said == ["cancelled" if kind == "async" else "finished", "closed"]


def test_a_timeout_cancels_an_async_stage() -> None:
    said: list[str] = []

    @stage(timeout=0.05)
    async def slow() -> None:
        try:
            await asyncio.sleep(20)
        finally:
            said.append("cancelled")

    with pytest.raises(StageError, match=r"TimeoutError: took longer than its timeout of 0.05 s"):
        run(workflow("w")[slow])
    assert said == ["cancelled"]
    with pytest.raises(StageError) as caught:
        run(workflow("w")[slow.with_(retry=2)])
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert len(said) == 3


def test_an_exit_in_an_async_stage_reaches_the_caller() -> None:
    @stage
    async def leave() -> None:
        raise SystemExit(4)

    with pytest.raises(SystemExit, match="4"):
        run(workflow("w")[leave])


def test_context_variables_reach_async_stages() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    @stage(writes="seen")
    async def look() -> int:
        return variable.get()

    variable.set(5)
    assert run(workflow("w")[look]).context.state.seen == 5


def test_runs_at_the_same_time_do_not_meet() -> None:
    both = threading.Barrier(2, timeout=10)

    @stage(writes="total")
    def meet(item: int, total: int = 0, *, metrics: Metrics) -> int:
        both.wait()
        metrics.record("item", item)
        return total + item

    value = workflow("w")[
        loop("l", over="items")[meet.bind(item="l.item"), add.bind(item="l.item")]
    ]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, value, {"items": range(5)})
        second = pool.submit(run, value, {"items": range(10, 15)})
        results = first.result(30), second.result(30)
    assert [r.context.state.total for r in results] == [20, 120]
    assert [[m.value for m in r.metrics] for r in results] == [list(range(5)), list(range(10, 15))]
    assert results[0].context.metadata.run_id != results[1].context.metadata.run_id


def test_aruns_at_the_same_time_in_one_loop() -> None:
    async def main() -> list[int]:
        runs = [arun(SUM, {"items": range(n)}) for n in range(8)]
        return [result.context.get_state("total", 0) for result in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == [sum(range(n)) for n in range(8)]


def test_an_interrupt_right_after_the_start_cancels_what_has_begun() -> None:
    begun, did = threading.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            did.append("cancelled")
            raise

    class Interrupted:
        """The loop of a thread that Ctrl-C meets on its way from the first call to it."""

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop, self._calls = loop, 0

        def call_soon_threadsafe(self, call: Callable[[], Any]) -> None:
            self._loop.call_soon_threadsafe(call)
            self._calls += 1
            if self._calls == 1:
                assert begun.wait(30)
                raise KeyboardInterrupt

    bridge = Bridge()
    call = bridge.begin(work())
    call._loop = Interrupted(call._loop)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert did == ["cancelled"]
    bridge.close()
