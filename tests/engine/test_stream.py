"""`stream_loop`: the source is read ahead, never too far, and its thread ends with the loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from crucible_kitchen.context import Metrics
from crucible_kitchen.engine import Event, run
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import StageNode, stage, stream_loop, workflow


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def using(function: Any) -> StageNode:
    def use(item: int) -> None:
        function(item)

    return stage(use).bind(item="s.item")


@pytest.mark.parametrize("prefetch", [1, 3])
def test_items_come_in_order_and_as_far_ahead_as_wanted(prefetch: int) -> None:
    made = 0
    seen: list[tuple[int, int]] = []
    changed = threading.Condition()

    def source() -> Iterator[int]:
        nonlocal made
        for number in range(10):
            with changed:
                made += 1
                changed.notify_all()
            yield number

    def use(item: int) -> None:
        wanted = min(10, item + 1 + prefetch)
        with changed:
            assert changed.wait_for(lambda: made >= wanted, timeout=10)
        time.sleep(0.002)  # were there more to come, it would come now
        seen.append((item, made))

    run(workflow("w")[stream_loop("s", over=source, prefetch=prefetch)[using(use)]])
    assert seen == [(i, min(10, i + 1 + prefetch)) for i in range(10)]


def test_source_and_body_overlap() -> None:
    both = threading.Barrier(2, timeout=10)

    def source() -> Iterator[int]:
        yield 0
        both.wait()
        yield 1

    run(
        workflow("w")[
            stream_loop("s", over=source)[using(lambda item: both.wait() if item == 0 else None)]
        ]
    )


def test_an_error_of_the_source_comes_where_its_item_was_wanted() -> None:
    seen: list[int] = []

    def broken() -> Iterator[int]:
        yield from (0, 1)
        raise OSError("disk")

    with pytest.raises(StageError, match="OSError: disk") as caught:
        run(workflow("w")[stream_loop("s", over=broken, prefetch=5)[using(seen.append)]])
    assert caught.value.stage == "w/s"
    assert seen == [0, 1]
    error = caught.value.__cause__
    assert error is not None
    assert any(f.name == "broken" for f in traceback.extract_tb(error.__traceback__))


def test_an_error_of_the_body_ends_the_thread_and_closes_the_generator() -> None:
    closed: list[str] = []

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.append(threading.current_thread().name)

    def fail(item: int) -> None:
        if item == 3:
            raise ValueError("no")

    with pytest.raises(StageError) as caught:
        run(workflow("w")[stream_loop("s", over=endless)[using(fail)]])
    assert caught.value.stage == "w/s[3]/use"
    assert closed == ["crucible-read-ahead-0"]


def test_totals_lists_and_nothing_at_all() -> None:
    events: list[Event] = []
    seen: list[int] = []
    value = workflow("w")[stream_loop("s", over="items")[using(seen.append)]]
    run(value, {"items": [4, 5]}, handlers=[events.append])
    run(value, {"items": []})
    assert seen == [4, 5]
    begun = next(e for e in events if e.kind == "block.start")
    assert (begun.path, begun.block, begun.total) == ("w/s", "loop", 2)
    with pytest.raises(StageError, match="'int' object is not iterable"):
        run(workflow("w")[stream_loop("s", over=lambda: 3)[using(seen.append)]])


def test_metrics_of_the_source_are_kept() -> None:
    def source(*, metrics: Metrics) -> Iterator[int]:
        for number in range(3):
            metrics.record("made", number)
            yield number

    result = run(workflow("w")[stream_loop("s", over=source)[using(lambda item: None)]])
    assert [m.value for m in result.metrics.history("made")] == [0, 1, 2]


def test_ctrl_c_ends_the_thread() -> None:
    program = textwrap.dedent(
        """
        import threading, time
        from crucible_kitchen.engine import run
        from crucible_kitchen.graph import stage, stream_loop, workflow

        def numbers():
            while True:
                yield 1

        @stage
        def use():
            print("begun", flush=True)
            time.sleep(30)

        try:
            run(workflow("w")[stream_loop("s", over=numbers)[use]])
        except KeyboardInterrupt:
            print("interrupted", threading.active_count(), flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert rest == "interrupted 1\n"
