"""Sessions that strands train at the same time are taken up where each of them was."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.engine import Event, Every, run
from crucible_kitchen.graph import Workflow, fan_out, loop, parallel, scope, stage, workflow
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum


class Several(noop.TrainingClient):
    """Takes several stages at a time, as the local one does."""

    concurrent = True


@stage(writes="session")
def start(*, training_client: TrainingClient) -> Session:
    return training_client.start_session({"model": "noop"})


@stage
def accumulate(session: Session, *, training_client: TrainingClient) -> None:
    training_client.forward_backward(session, [Datum([1, 2], {"labels": [1, 2]})]).result()


@stage(writes="steps")
def step(session: Session, *, training_client: TrainingClient) -> int:
    return training_client.optim_step(session, 1e-3).result().step


@stage(writes="count")
def count_up(count: int = 0) -> int:
    time.sleep(2e-4)
    return count + 1


@stage(writes="sum")
def add(first: int, second: int) -> int:
    return first + second


TRAIN = loop("l", over=range(4))[accumulate, step]
COUNT = loop("c", over=range(6))[count_up]

LAST = step.with_(name="last")

ONE = workflow("w")[start, accumulate, step, parallel("p")[scope("t")[start, TRAIN], COUNT], LAST]
OUTER = workflow("w")[
    start, TRAIN, parallel("p")[loop("m", over=range(3))[accumulate, step], COUNT]
]
BESIDE = workflow("w")[start, TRAIN, COUNT]
TWO = workflow("w")[
    parallel("p")[scope("one")[start, TRAIN], scope("two")[start, TRAIN, LAST], COUNT],
    add.bind(first="one.steps", second="two.steps"),
]
SWEEP = workflow("w")[fan_out("f", over=range(4), collect="steps")[start, TRAIN, LAST]]


class KillAtNth:
    """Kills the process as its n-th stage begins, or after it has been written down."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, event: Event) -> None:
        if event.kind == "stage.start":
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def killed(value: Workflow, folder: Path, number: int, **options: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        child = os.fork()
    if child == 0:
        try:
            run(value, run_dir=folder, handlers=[KillAtNth(number)], **options)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def committed(folder: Path) -> set[str]:
    lines = (folder / "journal" / "journal.jsonl").read_bytes().split(b"\n")[1:-1]
    every = [commit for line in lines for commit in json.loads(line).get("commits", ())]
    return {commit["at"] for commit in every if "in" not in commit}


def numbers(state: Any) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.endswith("session")}


@pytest.mark.parametrize("checkpoint", ["stage", Every(3, False)], ids=str)
@pytest.mark.parametrize(
    ("value", "client", "inside"),
    [
        (ONE, noop.TrainingClient, "w/p/"),
        (ONE, Several, "w/p/"),
        (OUTER, noop.TrainingClient, "w/p/"),
        (OUTER, Several, "w/p/"),
        (BESIDE, noop.TrainingClient, "w/l["),
        (TWO, Several, "w/p/"),
        (SWEEP, Several, "w/f["),
    ],
    ids=["one", "one-several", "outer", "outer-several", "beside", "two", "sweep"],
)
def test_each_session_goes_on_where_it_was(
    value: Workflow, client: Any, inside: str, checkpoint: Any, tmp_path: Path
) -> None:
    adapters = {"training_client": client}
    wanted = numbers(run(value, adapters=adapters).context.state)
    saved_inside = 0
    for number in range(2, 24, 5):
        folder = tmp_path / str(number)
        if not killed(value, folder, number, adapters=adapters, checkpoint=checkpoint):
            break
        done = committed(folder)
        saved_inside += any(at.startswith(inside) and "count" not in at for at in done)
        heard: list[Event] = []
        options = {"run_dir": folder, "resume": True, "handlers": [heard.append]}
        result = run(value, adapters=adapters, **options)
        assert numbers(result.context.state) == wanted
        assert not done & {event.path for event in heard if event.kind == "stage.start"}
    assert saved_inside or checkpoint != "stage"  # the others may be killed before their first
