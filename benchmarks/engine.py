"""What the engine itself costs, and what overlap gives, each beside its target.

Run with ``pytest -s benchmarks/engine.py`` on a machine that does nothing else. The last test
prints every figure beside its target and fails where one is missed; pytest-benchmark's own table
times whole runs. ``peers/engines.py --save`` runs it too, and holds its figures, which it has it
write into the file ``CRUCIBLE_FIGURES``, beside those of others.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crucible_kitchen.engine import Event, Every, run
from crucible_kitchen.graph import (
    StageNode,
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


class Target(NamedTuple):
    """What a figure must be.

    Args:
        what: is measured.
        unit: of the figure; ``x`` for a ratio.
        bound: of the figure.
        beside: what others take for the same, as ``peers/engines.py`` calls it.
        least: whether the figure must be at least the bound, and not at most.
    """

    what: str
    unit: str
    bound: float
    beside: str = ""
    least: bool = False

    def met(self, figure: float) -> bool:
        return figure >= self.bound if self.least else figure <= self.bound


TARGETS = {
    "quiet": Target("a stage in a loop, nobody listens", "us", 2.5),
    "heard": Target("a stage in a loop, one listener", "us", 2.5, "loop"),
    "record": Target("a record of the journal", "us", 15.0, "record"),
    "on disk": Target("a record, waiting for the disk", "us", 500.0),
    "node": Target("checking a node that was never checked", "us", 10.0),
    "again": Target("checking a node of a workflow that was", "us", 1.0),
    "even": Target("makespan / critical path, stages of 25 ms", "x", 1.05),
    "uneven": Target("makespan / critical path, of 10 and 70 ms", "x", 1.05, "makespan"),
    "beyond": Target("makespan beyond the critical path", "ms", 2.0),
    "stream_loop": Target("stream_loop against loop", "x", 1.9, least=True),
    "async_loop": Target("async_loop against loop", "x", 1.85, least=True),
    "graph": Target("import of crucible_kitchen.graph", "ms", 200.0),
    "engine": Target("import of crucible_kitchen.engine", "ms", 200.0, "import"),
}


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    """What has been measured, by the name of its target."""
    return {}


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
def test_overhead_per_stage(benchmark: Any, figures: dict[str, float], listeners: int) -> None:
    events: list[Event] = []

    def once() -> None:
        events.clear()
        run(CHAIN, {"scale": 0}, handlers=[events.append] * listeners)

    benchmark.pedantic(once, rounds=20, warmup_rounds=2)
    floor = fastest(bare)
    each = (benchmark.stats.stats.min - floor) / (ITERATIONS * STAGES)
    figures["heard" if listeners else "quiet"] = each * 1e6


@pytest.mark.parametrize("fsync", [False, True])
def test_a_record_of_the_journal(
    benchmark: Any, figures: dict[str, float], tmp_path: Path, fsync: bool
) -> None:
    """One checkpoint an iteration, of the keys that its stages have changed."""
    count = itertools.count()

    def once() -> None:
        folder = tmp_path / str(next(count))
        run(CHAIN, {"scale": 0}, run_dir=folder, checkpoint=Every(STAGES, fsync=fsync))

    benchmark.pedantic(once, rounds=3 if fsync else 20, warmup_rounds=1)
    floor = fastest(lambda: run(CHAIN, {"scale": 0}))
    each = (benchmark.stats.stats.min - floor) / ITERATIONS
    figures["on disk" if fsync else "record"] = each * 1e6


@pytest.mark.parametrize("again", [False, True])
def test_checking_per_node(benchmark: Any, figures: dict[str, float], again: bool) -> None:
    value = long(2000)

    def fresh() -> tuple[Any, Any]:
        # Another value, as what is found out of one is kept with it.
        return (value if again else replace(value), {"scale": 1}), {}

    benchmark.pedantic(find_problems, setup=fresh, rounds=20, warmup_rounds=2)
    figures["again" if again else "node"] = benchmark.stats.stats.min / 2001 * 1e6


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


def test_stream_loop_against_loop(benchmark: Any, figures: dict[str, float]) -> None:
    """Source and body take the same, so 2.0 is all that can be gained."""
    body = waiting_body.bind(item="items.item")
    one = workflow("one")[loop("items", over=waiting_source)[body]]
    ahead = workflow("ahead")[stream_loop("items", over=waiting_source, prefetch=4)[body]]
    benchmark.pedantic(run, args=(ahead,), rounds=5, warmup_rounds=1)
    figures["stream_loop"] = fastest(lambda: run(one), 5) / benchmark.stats.stats.min


@stage(writes="used")
def waiting_use(item: int, used: int = 0) -> int:
    time.sleep(WAIT_S)
    return used + 1


def waiting_make(used: int = 0) -> int:
    time.sleep(WAIT_S)
    return used


def all_used(used: int = 0) -> bool:
    return used >= ITEMS


def test_async_loop_against_loop(benchmark: Any, figures: dict[str, float]) -> None:
    """Producer and body take the same, so 2.0 is all that can be gained."""
    make = stage(writes="item")(waiting_make)
    one = workflow("one")[loop("rl", over=range(ITEMS))[make, waiting_use]]
    use = waiting_use.bind(item="rl.item")
    both = workflow("both")[async_loop("rl", producer=waiting_make, stop_when=all_used)[use]]
    benchmark.pedantic(run, args=(both,), rounds=5, warmup_rounds=1)
    figures["async_loop"] = fastest(lambda: run(one), 5) / benchmark.stats.stats.min


EVEN_MS = ((25, 25, 25, 25),) * 3
UNEVEN_MS = ((70, 10, 10, 10), (10, 70, 10, 10), (10, 10, 70, 10))


@pytest.mark.parametrize(("kind", "chains_ms"), [("even", EVEN_MS), ("uneven", UNEVEN_MS)])
def test_makespan_of_sequential_text(
    benchmark: Any,
    figures: dict[str, float],
    kind: str,
    chains_ms: tuple[tuple[int, ...], ...],
) -> None:
    """Three chains of four stages, written one after the other: one of them is the least.

    Runs and that one chain are taken in turn, and what they take is compared. What a run takes
    beyond is the same however long its stages are: two threads must begin, and all must meet again.
    """

    def waiting(chain: int, number: int, milliseconds: int) -> StageNode:
        def wait(made: int = 0) -> int:
            time.sleep(milliseconds / 1e3)
            return made + 1

        key, name = f"made_{chain}", f"wait_{chain}_{number}"
        return stage(writes=key)(wait).bind(made=key).with_(name=name)

    value = workflow("chains")[
        [
            waiting(chain, number, milliseconds)
            for chain, waits in enumerate(chains_ms)
            for number, milliseconds in enumerate(waits)
        ]
    ]
    bare: list[float] = []

    def critical_path() -> None:
        began = time.perf_counter()
        for milliseconds in chains_ms[0]:
            time.sleep(milliseconds / 1e3)
        bare.append(time.perf_counter() - began)

    benchmark.pedantic(run, setup=lambda: critical_path() or ((value,), {}), rounds=20)
    figures[kind] = benchmark.stats.stats.min / min(bare)
    beyond = (benchmark.stats.stats.min - min(bare)) * 1e3
    figures["beyond"] = max(beyond, figures.get("beyond", 0.0))


def long(nodes: int) -> Workflow:
    kinds = (first, second, third, fifth)
    return workflow("long")[[kinds[i % 4].with_(name=f"stage_{i}") for i in range(nodes)]]


@pytest.mark.parametrize("module", ["crucible_kitchen.graph", "crucible_kitchen.engine"])
def test_import(benchmark: Any, figures: dict[str, float], module: str) -> None:
    def once() -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=dict(os.environ))

    def empty() -> None:
        subprocess.run([sys.executable, "-c", ""], check=True)

    benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    beyond = benchmark.stats.stats.min - fastest(empty, 5)  # the interpreter's own start
    figures[module.rpartition(".")[2]] = beyond * 1e3


def test_every_target(figures: dict[str, float]) -> None:
    """The table: pass or miss, line by line."""
    rows = [
        {**TARGETS[name]._asdict(), "figure": figure, "met": TARGETS[name].met(figure)}
        for name, figure in figures.items()
    ]
    if "CRUCIBLE_FIGURES" in os.environ:
        Path(os.environ["CRUCIBLE_FIGURES"]).write_text(json.dumps(rows))
    print(f"\n\n{'what':42} {'measured':>10}   {'target':>10}")
    for row in rows:
        sign, verdict = ">=" if row["least"] else "<=", "pass" if row["met"] else "MISS"
        figure = f"{row['figure']:8.2f} {row['unit']:2}"
        print(f"{row['what']:42} {figure} {sign} {row['bound']:7g} {verdict}")
    assert not [row["what"] for row in rows if not row["met"]]


def fastest(call: Callable[[], object], rounds: int = 20) -> float:
    """Shortest of some runs, seconds."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best
