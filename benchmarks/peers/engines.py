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

With ``--save FOLDER`` it then measures what ``../engine.py`` does, runs the tests that show the
other targets, and writes all of it below the device's name: ``engine.json`` and, as a table,
``engine.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from engine_programs import CHAINS_MS, Program, burr, hamilton, langgraph, ours
from engine_programs import pydantic_graph as pydantic
from engine_table import PROGRAMS_OF, Found, markdown, own_figures, tried

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


def overhead(stages: int, rounds: int, clock: Clock) -> Found:
    """What a stage takes in a chain and in a loop, microseconds."""
    found: Found = {}
    for kind in ("chain", "loop"):
        programs = {e.name: make(stages) for e in (OURS, *PEERS) if (make := getattr(e, kind))}
        taken = measure(programs, stages, rounds, clock)
        for name, seconds in taken.items():
            of = found.setdefault(name, {})
            of[kind] = statistics.median(seconds) * 1e6 / stages
            of[f"{kind} ratio"] = ratio(seconds, taken[OURS.name])
    return found


def records(iterations: int, rounds: int, clock: Clock) -> Found:
    """What a record of a journal takes, microseconds and bytes."""
    found: Found = {}
    mine: list[float] = []
    for engine in [e for e in (OURS, ON_DISK, *PEERS) if e.journal]:
        with tempfile.TemporaryDirectory() as folder:
            assert engine.journal is not None
            plain = (OURS if engine is ON_DISK else engine).loop
            assert plain is not None
            programs = {
                "kept": engine.journal(iterations, Path(folder)),
                "plain": plain(iterations),
            }
            taken = measure(programs, iterations, rounds, clock)
            size = _size(Path(folder)) / (rounds + 1) / iterations
        each = [
            max(kept - bare, 1e-9) for kept, bare in zip(taken["kept"], taken["plain"], strict=True)
        ]
        mine = mine or each
        found[engine.name] = {
            "record": statistics.median(each) * 1e6 / iterations,
            "record ratio": ratio(each, mine),
            "bytes": size,
        }
    return found


def makespans(rounds: int) -> Found:
    """What independent chains take, milliseconds, and over what their longest takes alone."""
    engines = [e for e in (OURS, *PEERS) if e.chains]
    programs = {e.name: e.chains() for e in engines if e.chains is not None}
    programs["bare"] = lambda: _longest_chain
    taken = measure(programs, sum(map(len, CHAINS_MS)), rounds)
    bare = taken.pop("bare")
    return {
        name: {"chains": statistics.median(mine) * 1e3, "makespan": ratio(mine, bare)}
        for name, mine in taken.items()
    }


def imports(rounds: int) -> Found:
    """What an import takes beyond the start of Python, milliseconds."""

    def seconds(program: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - began

    engines = (OURS, *PEERS)
    taken: Taken = {"": [], **{e.name: [] for e in engines}}
    for _ in range(rounds):
        taken[""].append(seconds(""))
        for engine in engines:
            taken[engine.name].append(seconds(f"import {engine.module}"))
    return {e.name: {"import": (min(taken[e.name]) - min(taken[""])) * 1e3} for e in engines}


def _longest_chain() -> int:
    for milliseconds in max(CHAINS_MS, key=sum):
        time.sleep(milliseconds / 1e3)
    return sum(map(len, CHAINS_MS))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def lines(title: str, found: Found, figures: Sequence[str]) -> Iterator[str]:
    """Figures as text, an engine a line."""
    heads = (f"{PROGRAMS_OF[name][0]}, {PROGRAMS_OF[name][1]}" for name in figures)
    yield title + "".join(f"{head:>30}" for head in heads)
    for name, one in found.items():
        cells = (_figure(one, figure) for figure in figures)
        yield f"{name:{len(title)}}" + "".join(f"{cell:>30}" for cell in cells)


def _figure(found: Mapping[str, float], figure: str) -> str:
    if figure not in found:
        return "-"
    times = found.get(f"{figure} ratio")
    return f"{found[figure]:.2f}" + (f" ({times:5.1f})" if times is not None else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", type=Path, metavar="FOLDER")
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
    print(f"Python {python}, {stages} stages, median of {rounds} rounds, {arguments.clock} time;")
    print("in brackets how many times ours that is, in the same round")
    found: Found = {}
    for part, figures in (
        (overhead(stages, rounds, clock), ("chain", "loop")),
        (records(stages, rounds, clock), ("record", "bytes")),
        (makespans(rounds), ("chains", "makespan")),
        (imports(min(rounds, 5)), ("import",)),
    ):
        print(*lines(f"\n{'':18}", part, figures), sep="\n", flush=True)
        for name, one in part.items():
            found.setdefault(name, {}).update(one)
    if arguments.save is not None:
        path = save(arguments.save, found, stages, rounds)
        print(f"written: {path} and {path.with_suffix('.md').name}")
    return 0


def save(folder: Path, found: Found, stages: int, rounds: int) -> Path:
    """Measure and try the rest, and write all of it as JSON and as a table."""
    from crucible_kitchen.benchmarks.timing import machine, slug  # here: it loads torch

    where = machine("cpu")
    saved = {
        "machine": where,
        "versions": {engine.name: engine.version for engine in (OURS, *PEERS)},
        "stages": stages,
        "rounds": rounds,
        "figures": own_figures(),
        "trials": tried(),
        "peers": found,
    }
    path = folder / slug(where["device"]) / "engine.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saved, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(saved))
    return path


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of is theirs
        sys.exit(main())
