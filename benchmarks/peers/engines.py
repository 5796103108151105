"""What others take to run the same small programs, measured in one process.

Run with ``python benchmarks/peers/engines.py`` after ``pip install '.[peers]'``. A stage adds one
to a number, so all that is measured is the engine: its look-up, checks, writes and events.
Every engine is built before it is timed, runs in its own usual form, in memory where nothing else
is said, and must give the right number before it is timed. Rounds are taken in turn, one of each,
so a slow minute slows all; a ratio is the median over the rounds of a peer's time over ours in the
same round.

A record of a journal is what an iteration takes longer where it is written down: ours without
waiting for the disk, which `kill -9` cannot take back, and with it; the others as their own savers
in SQLite are set.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from engine_programs import CHAINS_MS, Engine, Program, burr, hamilton, langgraph, ours
from engine_programs import pydantic_graph as pydantic

OURS = ours.ENGINE
PEERS = (hamilton.ENGINE, burr.ENGINE, pydantic.ENGINE, langgraph.ENGINE)
ON_DISK = ours.ON_DISK

Clock = Callable[[], float]
Taken = dict[str, list[float]]


def measure(
    programs: Mapping[str, Program], wanted: int, rounds: int, clock: Clock = time.perf_counter
) -> Taken:
    """Seconds a run of each, in rounds of one run each.

    Raises:
        AssertionError: one gives the wrong number.
    """
    for name, prepare in programs.items():
        got = prepare()()
        assert got == wanted, f"{name} must give {wanted}, got {got}"
    taken: Taken = {name: [] for name in programs}
    for _ in range(rounds):
        for name, prepare in programs.items():
            run = prepare()
            began = clock()
            run()
            taken[name].append(clock() - began)
    return taken


def ratio(peer: list[float], mine: list[float]) -> float:
    """Median over rounds of a peer's time over ours."""
    return statistics.median(a / b for a, b in zip(peer, mine, strict=True))


def overhead(stages: int, rounds: int, clock: Clock) -> Iterator[str]:
    """What a stage takes in a chain and in a loop, line by line."""
    yield f"{'':28} {'chain':>21}   {'loop':>21}"
    yield f"{'':28} {'us a stage':>12} {'ratio':>8}   {'us a stage':>12} {'ratio':>8}"
    engines = (OURS, *PEERS)
    columns = [
        measure({e.name: e.chain(stages) for e in engines}, stages, rounds, clock),
        measure({e.name: e.loop(stages) for e in engines if e.loop}, stages, rounds, clock),
    ]
    for engine in engines:
        cells = [
            f"{'no loops':>12} {'':>8}"
            if engine.name not in taken
            else f"{statistics.median(taken[engine.name]) * 1e6 / stages:12.2f} "
            f"{ratio(taken[engine.name], taken[OURS.name]):8.1f}"
            for taken in columns
        ]
        yield f"{_title(engine)} " + "   ".join(cells)


def records(iterations: int, rounds: int, clock: Clock) -> Iterator[str]:
    """What a record of a journal takes, in time and in bytes, line by line."""
    yield f"{'':28} {'us a record':>12} {'ratio':>8} {'bytes':>8}"
    engines = [e for e in (OURS, ON_DISK, *PEERS) if e.journal]
    each: Taken = {}
    for engine in engines:
        with tempfile.TemporaryDirectory() as folder:
            assert engine.journal is not None
            plain = (OURS if engine is ON_DISK else engine).loop
            assert plain is not None
            programs = {
                "kept": engine.journal(iterations, Path(folder)),
                "plain": plain(iterations),
            }
            taken = measure(programs, iterations, rounds, clock)
            each[engine.name] = [
                max(kept - bare, 1e-9)
                for kept, bare in zip(taken["kept"], taken["plain"], strict=True)
            ]
            size = _size(Path(folder)) / (rounds + 1) / iterations
        us = statistics.median(each[engine.name]) * 1e6 / iterations
        times = ratio(each[engine.name], each[OURS.name])
        yield f"{_title(engine)} {us:12.1f} {times:8.1f} {size:8.0f}"


def makespans(rounds: int) -> Iterator[str]:
    """How much longer than their longest chain independent chains take, line by line."""
    engines = [e for e in (OURS, *PEERS) if e.chains]
    programs = {e.name: e.chains() for e in engines if e.chains is not None}
    programs["bare"] = lambda: _longest_chain
    stages = sum(map(len, CHAINS_MS))
    taken = measure(programs, stages, rounds)
    yield f"{'':28} {'ms':>12} {'/ longest chain':>16}"
    for engine in engines:
        mine = taken[engine.name]
        yield (
            f"{_title(engine)} {statistics.median(mine) * 1e3:12.1f} "
            f"{ratio(mine, taken['bare']):16.2f}"
        )


def _longest_chain() -> int:
    for milliseconds in max(CHAINS_MS, key=sum):
        time.sleep(milliseconds / 1e3)
    return sum(map(len, CHAINS_MS))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _title(engine: Engine) -> str:
    version = "" if engine is ON_DISK else f" {engine.version}"
    return f"{engine.name + version:28}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--clock",
        choices=["wall", "process"],
        default="wall",
        help="process: what was computed instead of what passed, where the machine does other work",
    )
    arguments = parser.parse_args()
    missing = [e.package for e in PEERS if e.version is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install '.[peers]'", file=sys.stderr)
        return 2
    sys.setrecursionlimit(100_000)  # Hamilton and LangGraph follow a chain by recursion
    clock = time.process_time if arguments.clock == "process" else time.perf_counter
    stages, rounds = arguments.stages, arguments.rounds
    python = sys.version.split()[0]
    print(f"Python {python}, {stages} stages, median of {rounds} rounds, {arguments.clock} time")
    for lines in (
        overhead(stages, rounds, clock),
        records(stages, rounds, clock),
        makespans(rounds),
    ):
        print()
        for line in lines:
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of is theirs
        sys.exit(main())
