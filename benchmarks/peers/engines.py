"""What others take to run the same chain of stages and the same loop, measured in one process.

Run with ``python benchmarks/peers/engines.py`` after ``pip install '.[peers]'``. A stage adds one
to a number, so all that is measured is the engine: its look-up, checks, writes and events.
Every engine is built before it is timed, runs in its own usual form without persistence, and must
give the right number before it is timed. Rounds are taken in turn, one of each, so a slow minute
slows all; a ratio is the median over the rounds of a peer's time over ours in the same round.

Ours runs as `ck.run` runs it: with a listener for events and with what a stage writes checked.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

Run = Callable[[], int]


class Engine(NamedTuple):
    """An engine and its two programs; a program it cannot express is None.

    Args:
        name: as people call it.
        package: whose version is shown.
        chain: makes the run of a chain of so many stages.
        loop: makes the run of a loop of one stage, so many times.
    """

    name: str
    package: str
    chain: Callable[[int], Run]
    loop: Callable[[int], Run] | None


def ours_chain(stages: int) -> Run:
    from crucible_kitchen.engine import Event, run
    from crucible_kitchen.graph import stage, workflow

    @stage(writes="x")
    def zero() -> int:
        return 0

    @stage(writes="x")
    def add(x: int) -> int:
        return x + 1

    value = workflow("chain")[zero, [add.with_(name=f"add_{i}") for i in range(stages)]]
    events: list[Event] = []

    def once() -> int:
        events.clear()
        return int(run(value, handlers=[events.append]).context.state.x)

    return once


def ours_loop(iterations: int) -> Run:
    from crucible_kitchen.engine import Event, run
    from crucible_kitchen.graph import loop, stage, workflow

    @stage(writes="x")
    def add(x: int = 0) -> int:
        return x + 1

    value = workflow("loop")[loop("steps", over=range(iterations))[add]]
    events: list[Event] = []

    def once() -> int:
        events.clear()
        return int(run(value, handlers=[events.append]).context.state.x)

    return once


def hamilton_chain(stages: int) -> Run:
    from hamilton import base, driver

    # Nodes are the functions of a module, named after what they give; a key is given once.
    source = "def x_0() -> int:\n    return 0\n" + "".join(
        f"def x_{i + 1}(x_{i}: int) -> int:\n    return x_{i} + 1\n" for i in range(stages)
    )
    module = ModuleType("hamilton_chain")
    sys.modules[module.__name__] = module
    exec(compile(source, module.__name__, "exec"), vars(module))
    made = driver.Builder().with_modules(module).with_adapter(base.DefaultAdapter()).build()
    last = f"x_{stages}"

    def once() -> int:
        return int(made.execute([last])[last])

    return once


def burr_chain(stages: int) -> Run:
    from burr.core import ApplicationBuilder, State, action

    @action(reads=["x"], writes=["x"])
    def add(state: State) -> State:
        return state.update(x=state["x"] + 1)

    names = [f"add_{i}" for i in range(stages)]

    def once() -> int:
        # An application keeps its place, so that each run needs one of its own.
        app = (
            ApplicationBuilder()
            .with_actions(**dict.fromkeys(names, add))
            .with_transitions(*pairwise(names))
            .with_state(x=0)
            .with_entrypoint(names[0])
            .build()
        )
        began = time.perf_counter()
        state = app.run(halt_after=[names[-1]])[2]
        once.seconds = time.perf_counter() - began  # type: ignore[attr-defined]
        return int(state["x"])

    return once


def burr_loop(iterations: int) -> Run:
    from burr.core import ApplicationBuilder, State, action, default, expr

    @action(reads=["x"], writes=["x"])
    def add(state: State) -> State:
        return state.update(x=state["x"] + 1)

    @action(reads=["x"], writes=[])
    def done(state: State) -> State:
        return state

    def once() -> int:
        app = (
            ApplicationBuilder()
            .with_actions(add=add, done=done)
            .with_transitions(("add", "add", expr(f"x < {iterations}")), ("add", "done", default))
            .with_state(x=0)
            .with_entrypoint("add")
            .build()
        )
        began = time.perf_counter()
        state = app.run(halt_after=["done"])[2]
        once.seconds = time.perf_counter() - began  # type: ignore[attr-defined]
        return int(state["x"])

    return once


def pydantic_chain(stages: int) -> Run:
    from pydantic_graph import GraphBuilder

    builder = GraphBuilder(name="chain", input_type=int, output_type=int, auto_instrument=False)

    async def add(ctx):  # type: ignore[no-untyped-def] # it looks for annotations in the module
        return ctx.inputs + 1

    steps = [builder.step(add, node_id=f"add_{i}") for i in range(stages)]
    builder.add_edge(builder.start_node, steps[0])
    for one, other in pairwise(steps):
        builder.add_edge(one, other)
    builder.add_edge(steps[-1], builder.end_node)
    graph = builder.build()
    return lambda: int(asyncio.run(graph.run(inputs=0)))


def pydantic_loop(iterations: int) -> Run:
    from pydantic_graph import GraphBuilder

    builder = GraphBuilder(name="loop", input_type=int, output_type=int, auto_instrument=False)

    async def add(ctx):  # type: ignore[no-untyped-def] # it looks for annotations in the module
        return ctx.inputs + 1

    step = builder.step(add, node_id="add")
    again = builder.match(int, matches=lambda x: x < iterations).to(step)
    decision = builder.decision().branch(again).branch(builder.match(int).to(builder.end_node))
    builder.add(
        builder.edge_from(builder.start_node).to(step), builder.edge_from(step).to(decision)
    )
    graph = builder.build()
    return lambda: int(asyncio.run(graph.run(inputs=0)))


def langgraph_chain(stages: int) -> Run:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(_state())
    names = [f"add_{i}" for i in range(stages)]
    for name in names:
        graph.add_node(name, lambda state: {"x": state["x"] + 1})
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    made, limit = graph.compile(), {"recursion_limit": stages + 10}
    return lambda: int(made.invoke({"x": 0}, limit)["x"])


def langgraph_loop(iterations: int) -> Run:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(_state())
    graph.add_node("add", lambda state: {"x": state["x"] + 1})
    graph.add_edge(START, "add")
    graph.add_conditional_edges("add", lambda state: "add" if state["x"] < iterations else END)
    made, limit = graph.compile(), {"recursion_limit": iterations + 10}
    return lambda: int(made.invoke({"x": 0}, limit)["x"])


def _state() -> Any:
    from typing import TypedDict

    return TypedDict("State", {"x": int})


OURS = Engine("crucible-kitchen", "crucible-kitchen", ours_chain, ours_loop)
PEERS = (
    Engine("Hamilton", "sf-hamilton", hamilton_chain, None),
    Engine("Burr", "burr", burr_chain, burr_loop),
    Engine("pydantic-graph", "pydantic-graph", pydantic_chain, pydantic_loop),
    Engine("LangGraph", "langgraph", langgraph_chain, langgraph_loop),
)


def measure(runs: dict[str, Run], stages: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds a stage of each, in rounds of one run each.

    Raises:
        AssertionError: one gives the wrong number.
    """
    for name, run in runs.items():
        got = run()
        assert got == stages, f"{name} must give {stages}, got {got}"
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds = getattr(run, "seconds", None) or time.perf_counter() - began
            taken[name].append(seconds * 1e6 / stages)
    return taken


def table(stages: int, rounds: int) -> Iterator[str]:
    """The table, line by line."""
    yield f"Python {sys.version.split()[0]}, {stages} stages, median of {rounds} rounds"
    yield f"{'':32} {'chain':>21}   {'loop':>21}"
    yield f"{'':32} {'us a stage':>12} {'ratio':>8}   {'us a stage':>12} {'ratio':>8}"
    columns = []
    for kind in ("chain", "loop"):
        made = {e.name: getattr(e, kind) for e in (OURS, *PEERS)}
        runs = {name: make(stages) for name, make in made.items() if make is not None}
        columns.append(measure(runs, stages, rounds))
    for engine in (OURS, *PEERS):
        cells = []
        for taken in columns:
            if engine.name not in taken:
                cells.append(f"{'no loops':>12} {'':>8}")
                continue
            mine, ours = taken[engine.name], taken[OURS.name]
            ratio = statistics.median(a / b for a, b in zip(mine, ours, strict=True))
            cells.append(f"{statistics.median(mine):12.2f} {ratio:8.1f}")
        version = importlib.metadata.version(engine.package)
        yield f"{engine.name + ' ' + version:32} " + "   ".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    missing = [e.package for e in PEERS if not _installed(e.package)]
    if missing:
        print(f"not installed: {', '.join(missing)}; pip install '.[peers]'", file=sys.stderr)
        return 2
    sys.setrecursionlimit(100_000)  # Hamilton and LangGraph follow a chain by recursion
    for line in table(arguments.stages, arguments.rounds):
        print(line)
    return 0


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
