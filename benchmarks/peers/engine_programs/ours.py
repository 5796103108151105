"""As `ck.run` runs it: with a listener for events and with what a stage writes checked."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

from crucible_kitchen.engine import Event, Every, run
from crucible_kitchen.graph import StageNode, Workflow, loop, stage, workflow

from . import CHAINS_MS, Engine, Program, Run


@stage(writes="x")
def add(x: int = 0) -> int:
    return x + 1


def listened(value: Workflow, **options: Any) -> int:
    events: list[Event] = []
    return int(run(value, handlers=[events.append], **options).context.state.x)


def chain(stages: int) -> Program:
    value = workflow("chain")[[add.with_(name=f"add_{i}") for i in range(stages)]]
    return lambda: lambda: listened(value)


def loop_of(iterations: int) -> Program:
    value = workflow("loop")[loop("steps", over=range(iterations))[add]]
    return lambda: lambda: listened(value)


def _journal(iterations: int, folder: Path, fsync: bool) -> Program:
    value = workflow("loop")[loop("steps", over=range(iterations))[add]]
    numbers = count()

    def prepare() -> Run:
        run_dir = folder / str(next(numbers))
        return lambda: listened(value, run_dir=run_dir, checkpoint=Every(1, fsync=fsync))

    return prepare


def journal(iterations: int, folder: Path) -> Program:
    return _journal(iterations, folder, fsync=False)


def journal_on_disk(iterations: int, folder: Path) -> Program:
    return _journal(iterations, folder, fsync=True)


def chains() -> Program:
    def waiting(chain: int, number: int, milliseconds: int) -> StageNode:
        def wait(made: int = 0) -> int:
            time.sleep(milliseconds / 1e3)
            return made + 1

        key, name = f"made_{chain}", f"wait_{chain}_{number}"
        return stage(writes=key)(wait).bind(made=key).with_(name=name)

    stages = [
        waiting(chain, number, milliseconds)
        for chain, waits in enumerate(CHAINS_MS)
        for number, milliseconds in enumerate(waits)
    ]
    value = workflow("chains")[stages]

    def once() -> int:
        state = run(value).context.state
        return sum(state[f"made_{chain}"] for chain in range(len(CHAINS_MS)))

    return lambda: once


ENGINE = Engine(
    "crucible-kitchen",
    "crucible-kitchen",
    "crucible_kitchen.engine",
    chain,
    loop_of,
    journal,
    chains,
)
ON_DISK = Engine(
    "  with fsync", "crucible-kitchen", "crucible_kitchen.engine", chain, journal=journal_on_disk
)
