"""`executor` and `timeout`: what cannot run where it is told to is found before anything runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.context import Context
from crucible_kitchen.graph import Stage, StageNode, describe, find_problems, plan, stage, workflow
from crucible_kitchen.graph.executors import address, find
from crucible_kitchen.ports import TrainingClient


def plain(x: int = 1) -> int:
    return x


@stage(writes="y")
def decorated(x: int = 1) -> int:
    return x


@stage(writes="y")
def trains(*, training_client: TrainingClient) -> int:
    return 1


@stage(writes="y")
def looks(ctx: Context) -> int:
    return 1


@stage(writes="y")
async def waits() -> int:
    return 1


class Whole(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx


shadowed = decorated


def shadow() -> StageNode:
    def decorated() -> int:
        return 1

    decorated.__qualname__ = "plain"
    return stage(writes="y")(decorated)


CASES: list[tuple[Callable[[], Any], str, str, str]] = [
    (lambda: decorated.with_(executor="proces"), "bad-option", "got 'proces'", "'process'"),
    (lambda: decorated.with_(executor=3), "bad-option", "must be one of 'inline', 'thread'", ""),
    (
        lambda: stage(writes="y")(lambda: 1).with_(name="f", executor="process"),
        "executor",
        "stands inside a function",
        "`def` in a module",
    ),
    (lambda: shadow().with_(executor="process"), "executor", "is something else", "in a module"),
    (lambda: Whole().with_(executor="process"), "executor", "is a class", "@stage"),
    (lambda: trains.with_(executor="process"), "executor", "uses training_client", "by a key"),
    (lambda: looks.with_(executor="process"), "executor", "handed the context", "name the keys"),
    (lambda: waits.with_(executor="thread"), "executor", "runs in the event loop", "`def`"),
    (
        lambda: decorated.with_(timeout=1),
        "timeout",
        "can be interrupted, or a process",
        "async def",
    ),
    (
        lambda: decorated.with_(timeout=1, executor="inline"),
        "timeout",
        "can be interrupted, or a process",
        'executor="process"',
    ),
]


@pytest.mark.parametrize(("make", "code", "message", "advice"), CASES)
def test_each_mistake_is_found(
    make: Callable[[], Any], code: str, message: str, advice: str
) -> None:
    value = workflow("w")[make()]
    (problem,) = find_problems(value, {}, {"training_client": noop.TrainingClient})
    assert problem.code == code
    assert message in problem.message
    assert advice in problem.help


@pytest.mark.parametrize("executor", [None, "inline", "thread", "process"])
def test_a_function_of_a_module_may_run_anywhere(executor: str | None) -> None:
    timeout = 1 if executor in ("thread", "process") else None
    node = decorated.with_(executor=executor, timeout=timeout)
    assert find_problems(workflow("w")[node], {}) == []
    assert (node == decorated) is (executor is None)
    (described,) = describe(workflow("w")[node])["children"]
    assert described.get("executor") == executor


def test_an_address_leads_back_to_the_function() -> None:
    for function in (plain, decorated.call):
        module, name = address(function)
        assert find(module, name) is function
    with pytest.raises(LookupError):
        address(functools.partial(plain, x=2))


def test_a_plan_tells_of_a_thread_that_cannot_be_ended() -> None:
    made = plan(workflow("w")[decorated.with_(timeout=1, executor="thread")])
    (warning,) = made.warnings
    assert (warning.code, warning.path) == ("timeout", "w/decorated")
    assert "cannot be ended" in warning.message
    assert not plan(workflow("w")[decorated.with_(timeout=1, executor="process")]).warnings
