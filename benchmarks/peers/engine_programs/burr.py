"""A state machine; an application keeps its place, so that each run needs one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from . import Engine, Program, Run


def _actions() -> tuple[Any, Any]:
    from burr.core import State, action

    @action(reads=["x"], writes=["x"])
    def add(state: State) -> State:
        return state.update(x=state["x"] + 1)

    @action(reads=["x"], writes=[])
    def done(state: State) -> State:
        return state

    return add, done


def _ready(actions: Mapping[str, Any], moves: Sequence[Any], last: str, keep: Any = None) -> Run:
    from burr.core import ApplicationBuilder

    builder = ApplicationBuilder().with_actions(**actions).with_transitions(*moves).with_state(x=0)
    if keep is not None:
        builder = builder.with_state_persister(keep).with_identifiers(app_id="loop")
    app = builder.with_entrypoint(next(iter(actions))).build()
    return lambda: int(app.run(halt_after=[last])[2]["x"])


def chain(stages: int) -> Program:
    add, _ = _actions()
    names = [f"add_{i}" for i in range(stages)]
    return lambda: _ready(dict.fromkeys(names, add), list(pairwise(names)), names[-1])


def _moves(iterations: int) -> list[Any]:
    from burr.core import default, expr

    return [("add", "add", expr(f"x < {iterations}")), ("add", "done", default)]


def loop(iterations: int) -> Program:
    add, done = _actions()
    return lambda: _ready({"add": add, "done": done}, _moves(iterations), "done")


def journal(iterations: int, folder: Path) -> Program:
    from burr.core.persistence import SQLitePersister

    add, done = _actions()
    numbers = count()

    def prepare() -> Run:
        here = folder / str(next(numbers))
        here.mkdir()
        unbound = {"check_same_thread": False}  # whoever drops it may be on another thread
        keep = SQLitePersister.from_values(str(here / "state.db"), connect_kwargs=unbound)
        keep.initialize()
        return _ready({"add": add, "done": done}, _moves(iterations), "done", keep)

    return prepare


ENGINE = Engine("Burr", "burr", "burr.core", chain, loop, journal)
