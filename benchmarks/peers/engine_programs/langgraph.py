"""A state graph; what may begin together does, and all wait for the last of them."""

from __future__ import annotations

import sqlite3
import time
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

from . import CHAINS_MS, Engine, Program, Run


class State(TypedDict):
    x: int


def chain(stages: int) -> Program:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    names = [f"add_{i}" for i in range(stages)]
    for name in names:
        graph.add_node(name, lambda state: {"x": state["x"] + 1})
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    made, limit = graph.compile(), {"recursion_limit": stages + 10}
    return lambda: lambda: int(made.invoke({"x": 0}, limit)["x"])


def _loop(iterations: int) -> Any:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    graph.add_node("add", lambda state: {"x": state["x"] + 1})
    graph.add_edge(START, "add")
    graph.add_conditional_edges("add", lambda state: "add" if state["x"] < iterations else END)
    return graph


def loop(iterations: int) -> Program:
    made, limit = _loop(iterations).compile(), {"recursion_limit": iterations + 10}
    return lambda: lambda: int(made.invoke({"x": 0}, limit)["x"])


def journal(iterations: int, folder: Path) -> Program:
    from langgraph.checkpoint.sqlite import SqliteSaver

    graph, numbers = _loop(iterations), count()

    def prepare() -> Run:
        here = folder / str(next(numbers))
        here.mkdir()
        connection = sqlite3.connect(here / "state.db", check_same_thread=False)
        made = graph.compile(checkpointer=SqliteSaver(connection))
        options = {"recursion_limit": iterations + 10, "configurable": {"thread_id": "loop"}}

        def once() -> int:
            number = int(made.invoke({"x": 0}, options, durability="sync")["x"])
            connection.close()
            return number

        return once

    return prepare


def chains() -> Program:
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(TypedDict("Chains", {f"x_{c}": int for c in range(len(CHAINS_MS))}))

    def waiting(key: str, milliseconds: int) -> Any:
        def wait(state: Any) -> dict[str, int]:
            time.sleep(milliseconds / 1e3)
            return {key: state[key] + 1}

        return wait

    for number, waits in enumerate(CHAINS_MS):
        before = START
        for place, milliseconds in enumerate(waits):
            name = f"wait_{number}_{place}"
            graph.add_node(name, waiting(f"x_{number}", milliseconds))
            graph.add_edge(before, name)
            before = name
        graph.add_edge(before, END)
    made = graph.compile()
    begin = {f"x_{number}": 0 for number in range(len(CHAINS_MS))}
    return lambda: lambda: sum(made.invoke(begin).values())


ENGINE = Engine("LangGraph", "langgraph", "langgraph.graph", chain, loop, journal, chains)
