"""`Future`: waiting, awaiting, failing, and being abandoned."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator

import pytest

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Future


@pytest.fixture
def executor() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool


def test_resolved_and_failed_are_done() -> None:
    assert Future.resolved(3).done()
    assert Future.resolved(3).result() == 3
    assert Future.resolved(3).exception() is None
    failed: Future[int] = Future.failed(ValueError("no"))
    assert failed.done()
    assert isinstance(failed.exception(), ValueError)
    with pytest.raises(ValueError, match="no"):
        failed.result()


def test_waiting_too_long_is_the_builtin_timeout(
    executor: concurrent.futures.ThreadPoolExecutor,
) -> None:
    gate = threading.Event()
    future = Future.of(executor.submit(gate.wait, 10))
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        future.result(timeout=0.01)
    assert not future.done()
    assert repr(future) == "Future(pending)"
    gate.set()
    assert future.result(timeout=10) is True
    assert repr(future) == "Future(True)"


def test_the_works_own_timeout_is_not_mistaken_for_waiting() -> None:
    with pytest.raises(TimeoutError, match="the disk"):
        Future.failed(TimeoutError("the disk")).result(timeout=5)


def test_callbacks_get_the_future_also_when_it_is_done() -> None:
    seen: list[object] = []
    future = Future.resolved(1)
    future.add_done_callback(seen.append)
    assert seen == [future]


def test_abandoned_work_is_a_port_error(executor: concurrent.futures.ThreadPoolExecutor) -> None:
    gate = threading.Event()
    executor.submit(gate.wait, 10)
    never = Future.of(executor.submit(int))
    executor.shutdown(wait=False, cancel_futures=True)
    gate.set()
    with pytest.raises(PortError, match="closed"):
        never.result()

    async def wait() -> None:
        await never

    with pytest.raises(PortError, match="closed"):
        asyncio.run(wait())


def test_awaiting_gives_the_value_or_the_error(
    executor: concurrent.futures.ThreadPoolExecutor,
) -> None:
    async def wait() -> list[object]:
        slow = Future.of(executor.submit(sum, [1, 2]))
        failed: Future[int] = Future.failed(KeyError("k"))
        return await asyncio.gather(_of(slow), _of(failed), return_exceptions=True)

    value, error = asyncio.run(wait())
    assert value == 3
    assert isinstance(error, KeyError)


def test_a_cancelled_waiter_leaves_the_work_and_other_waiters_alone(
    executor: concurrent.futures.ThreadPoolExecutor,
) -> None:
    gate = threading.Event()

    async def wait() -> int:
        blocked = executor.submit(gate.wait, 10)
        future = Future.of(executor.submit(sum, [1, 2]))
        impatient = asyncio.ensure_future(_of(future))
        patient = asyncio.ensure_future(_of(future))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        gate.set()
        got = await patient
        assert impatient.cancelled()
        assert blocked.done()
        return got

    assert asyncio.run(wait()) == 3


def test_work_that_outlives_the_loop_is_no_error(
    executor: concurrent.futures.ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    future = Future.of(executor.submit(gate.wait, 10))

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_of(future), 0.01)

    asyncio.run(give_up())
    gate.set()
    assert future.result(timeout=10)
    assert not caplog.records


async def _of(future: Future[int]) -> int:
    return await future
