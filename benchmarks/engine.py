"""What the engine itself costs, and what overlap gives.

Run with ``pytest -s benchmarks/engine.py``; the table times whole runs, the printed lines say it
per stage, per node, and as a ratio. What others take is measured by ``peers/engines.py``.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.engine import Event, Every, run
from crucible_kitchen.graph import (
    Workflow,
    async_loop,
    find_problems,
    loop,
    stage,
    stream_loop,
    workflow,
)

ITERATIONS = 1000
STAGES = 5


@stage(writes="a")
def first(c: int = 0) -> int:
    return c + 1


@stage(writes="b")
def second(a: int, scale: int) -> int:
    return a * scale


@stage(writes="c")
def third(a: int, b: int) -> int:
    return a + b


@stage
def fourth(c: int, index: int) -> None: ...


@stage(writes="d")
def fifth(a: int, b: int, c: int) -> int:
    return a + b + c


CHAIN = workflow("chain")[
    loop("steps", over=range(ITERATIONS))[
        first, second, third, fourth.bind(index="steps.index"), fifth
    ]
]


def bare() -> int:
    """The same work as a plain Python loop."""
    a = b = c = d = 0
    one, two, three, four, five = (node.call for node in (first, second, third, fourth, fifth))
    for index in range(ITERATIONS):
        a = one(c)
        b = two(a, 0)
        c = three(a, b)
        four(c, index)
        d = five(a, b, c)
    return int(d)


@pytest.mark.parametrize("listeners", [0, 1])
def test_overhead_per_stage(benchmark: Any, listeners: int) -> None:
    events: list[Event] = []

    def once() -> None:
        events.clear()
        run(CHAIN, {"scale": 0}, handlers=[events.append] * listeners)

    benchmark.pedantic(once, rounds=20, warmup_rounds=2)
    floor = fastest(bare)
    each = (benchmark.stats.stats.min - floor) / (ITERATIONS * STAGES)
    benchmark.extra_info["us_per_stage"] = round(each * 1e6, 3)
    print(f"\n{listeners} listener(s): {each * 1e6:.2f} us a stage over the bare loop")


@pytest.mark.parametrize("fsync", [False, True])
def test_a_record_of_the_journal(benchmark: Any, tmp_path: Path, fsync: bool) -> None:
    """One checkpoint an iteration, of the keys that its stages have changed."""
    count = itertools.count()

    def once() -> None:
        folder = tmp_path / str(next(count))
        run(CHAIN, {"scale": 0}, run_dir=folder, checkpoint=Every(STAGES, fsync=fsync))

    benchmark.pedantic(once, rounds=3 if fsync else 20, warmup_rounds=1)
    floor = fastest(lambda: run(CHAIN, {"scale": 0}))
    each = (benchmark.stats.stats.min - floor) / ITERATIONS
    benchmark.extra_info["us_per_record"] = round(each * 1e6, 1)
    print(f"\na record of the journal{' on the disk' if fsync else ''}: {each * 1e6:.1f} us")


def test_checking_per_node(benchmark: Any) -> None:
    value = long(2000)
    benchmark.pedantic(find_problems, args=(value, {"scale": 1}), rounds=20, warmup_rounds=2)
    each = benchmark.stats.stats.min / 2001
    benchmark.extra_info["us_per_node"] = round(each * 1e6, 3)
    print(f"\n{each * 1e6:.2f} us a node")


# Stages that wait stand for those that compute on a device or ask a server.
WAIT_S = 0.005
ITEMS = 40


def waiting_source() -> Iterator[int]:
    for item in range(ITEMS):
        time.sleep(WAIT_S)
        yield item


@stage
def waiting_body(item: int) -> None:
    time.sleep(WAIT_S)


def test_stream_loop_against_loop(benchmark: Any) -> None:
    """Source and body take the same, so 2.0 is all that can be gained."""
    body = waiting_body.bind(item="items.item")
    one = workflow("one")[loop("items", over=waiting_source)[body]]
    ahead = workflow("ahead")[stream_loop("items", over=waiting_source, prefetch=4)[body]]
    benchmark.pedantic(run, args=(ahead,), rounds=5, warmup_rounds=1)
    _print_gain(benchmark, "stream_loop", fastest(lambda: run(one), 5))


@stage(writes="used")
def waiting_use(item: int, used: int = 0) -> int:
    time.sleep(WAIT_S)
    return used + 1


def waiting_make(used: int = 0) -> int:
    time.sleep(WAIT_S)
    return used


def all_used(used: int = 0) -> bool:
    return used >= ITEMS


def test_async_loop_against_loop(benchmark: Any) -> None:
    """Producer and body take the same, so 2.0 is all that can be gained."""
    make = stage(writes="item")(waiting_make)
    one = workflow("one")[loop("rl", over=range(ITEMS))[make, waiting_use]]
    use = waiting_use.bind(item="rl.item")
    both = workflow("both")[async_loop("rl", producer=waiting_make, stop_when=all_used)[use]]
    benchmark.pedantic(run, args=(both,), rounds=5, warmup_rounds=1)
    _print_gain(benchmark, "async_loop", fastest(lambda: run(one), 5))


def test_makespan_of_sequential_text(benchmark: Any) -> None:
    """Three chains of four stages, written one after the other: the longest chain is the least."""

    @stage(writes="made")
    def begin() -> int:
        time.sleep(WAIT_S)
        return 0

    @stage(writes="made")
    def go_on(made: int) -> int:
        time.sleep(WAIT_S)
        return made + 1

    chains = [
        [
            begin.bind(writes=f"made_{c}").with_(name=f"begin_{c}"),
            *(
                go_on.bind(made=f"made_{c}", writes=f"made_{c}").with_(name=f"go_on_{c}_{i}")
                for i in range(3)
            ),
        ]
        for c in range(3)
    ]
    value = workflow("chains")[chains]
    benchmark.pedantic(run, args=(value,), rounds=10, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / (4 * WAIT_S)
    benchmark.extra_info["makespan_over_critical_path"] = round(ratio, 3)
    print(f"\nmakespan / critical path: {ratio:.2f}")


def _print_gain(benchmark: Any, what: str, sequential_s: float) -> None:
    gain = sequential_s / benchmark.stats.stats.min
    benchmark.extra_info["gain"] = round(gain, 3)
    print(f"\n{what}: {gain:.2f} times as fast as one after the other")


def long(nodes: int) -> Workflow:
    kinds = (first, second, third, fifth)
    return workflow("long")[[kinds[i % 4].with_(name=f"stage_{i}") for i in range(nodes)]]


@pytest.mark.parametrize("module", ["crucible_kitchen.graph", "crucible_kitchen.engine"])
def test_import(benchmark: Any, module: str) -> None:
    def once() -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=dict(os.environ))

    def empty() -> None:
        subprocess.run([sys.executable, "-c", ""], check=True)

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    ms = (benchmark.stats.stats.min - fastest(empty, 5)) * 1e3
    benchmark.extra_info["ms"] = round(ms)
    print(f"\nimport {module}: {ms:.0f} ms beyond the interpreter's own")


def fastest(call: Callable[[], object], rounds: int = 20) -> float:
    """Shortest of some runs, seconds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best
