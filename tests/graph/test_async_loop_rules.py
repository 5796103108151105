"""`async_loop` as a value: its mistakes are found, it is drawn, described and edited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.graph import (
    Stage,
    Workflow,
    async_loop,
    describe,
    find_problems,
    plan,
    stage,
    workflow,
)
from crucible_kitchen.ports import HubClient, TrainingClient


@stage(writes="step")
def count(step: int = 0) -> int:
    return step + 1


@stage
def use(item: int) -> None: ...


@stage(writes="step")
def trains(*, training_client: TrainingClient) -> int:
    return 1


def make() -> int:
    return 1


def make_with_client(*, training_client: TrainingClient) -> int:
    return 1


def make_from_hub(*, hub_client: HubClient) -> int:
    return 1


def generate() -> Iterator[int]:
    yield 1


async def generate_async() -> Any:
    yield 1


def done(step: int = 0) -> bool:
    return step > 3


def never(other: int = 0) -> bool:
    return other > 3


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("bad-option", {"stop_when": done}, "needs producer=", "one item a call"),
    ("bad-option", {"producer": make}, "needs stop_when=", "StopIteration"),
    ("bad-option", {"producer": [1, 2], "stop_when": done}, "must be a function", "stream_loop"),
    ("bad-option", {"producer": "make", "stop_when": done}, "no method of a Workflow", "function"),
    ("bad-option", {"producer": generate, "stop_when": done}, "is a generator", "one item a call"),
    ("bad-option", {"producer": generate_async, "stop_when": done}, "is a generator", "return"),
    ("bad-option", {"producer": Stage, "stop_when": done}, "must be a function", ""),
    (
        "bad-option",
        {"producer": stage(make).with_(retry=2), "stop_when": done},
        "options of a stage",
        "the function itself",
    ),
    (
        "bad-option",
        {"producer": make, "stop_when": done, "buffer": 0},
        "buffer must be an int of at least 1, got 0",
        "",
    ),
    (
        "bad-option",
        {"producer": make, "stop_when": done, "max_staleness": -1},
        "max_staleness must be an int of at least 0, got -1",
        "",
    ),
    ("unknown-option", {"producer": make, "stop_when": done, "bufer": 1}, "'bufer'", "'buffer'"),
    ("endless-loop", {"producer": make, "stop_when": never}, "'other', which no", "StopIteration"),
    ("endless-loop", {"producer": make, "stop_when": False}, "stop_when=False", "StopIteration"),
    (
        "not-independent",
        {"producer": make_with_client, "stop_when": done},
        "producer and body use training_client",
        "loop",
    ),
    ("unknown-key", {"producer": lambda nothing: 1, "stop_when": done}, "'nothing'", ""),
]


@pytest.mark.parametrize(("code", "options", "message", "advice"), CASES)
def test_each_mistake_is_found(
    code: str, options: dict[str, Any], message: str, advice: str
) -> None:
    value = workflow("w")[async_loop("l", **options)[count, trains]]
    (problem,) = find_problems(value, {}, {"training_client": _client(), "hub_client": _hub()})
    assert (problem.code, problem.path) == (code, "w/l")
    assert message in problem.message
    assert advice in problem.help
    assert problem.source.rpartition(":")[0] == __file__


def _client() -> Any:
    from crucible_kitchen.adapters.noop import TrainingClient

    return TrainingClient


def _hub() -> Any:
    from crucible_kitchen.adapters.noop import HubClient

    return HubClient


@pytest.mark.parametrize(
    "options",
    [
        {"producer": make, "stop_when": done},
        {"producer": count, "stop_when": done},
        {"producer": make, "stop_when": None, "buffer": 1, "max_staleness": 0},
        {"producer": make, "stop_when": True},
        {"producer": make_from_hub, "stop_when": lambda ctx: True},
        {"producer": lambda step=0: step, "stop_when": "step"},
    ],
)
def test_right_ones_pass(options: dict[str, Any]) -> None:
    begin = stage(writes="step")(lambda: 0).with_(name="begin")
    value = workflow("w")[begin, async_loop("l", **options)[use.bind(item="l.item"), count]]
    assert find_problems(value, {}, {"hub_client": _hub()}) == []


def test_its_variables_stay_inside() -> None:
    loop = async_loop("l", producer=make, stop_when=done)[count]
    (problem,) = find_problems(workflow("w")[loop, use.bind(item="l.item")])
    assert problem.code == "outside-loop"


VALUE = workflow("w")[
    async_loop("rl", producer=make, stop_when=done, buffer=2, max_staleness=1)[count]
]


def test_it_is_described_and_drawn() -> None:
    (node,) = describe(VALUE)["children"]
    assert node["kind"] == "async_loop"
    assert (node["producer"], node["stop_when"]) == ("make", "done")
    assert (node["buffer"], node["max_staleness"]) == (2, 1)
    assert node["carried"] == ["step"]
    for text in (VALUE.mermaid(), VALUE.dot()):
        assert "rl: each that make makes, at the same time" in text
    assert VALUE.graph.nodes["rl"]["writes"] == ("step",)
    assert VALUE.graph.nodes["rl"]["carried"] == ("step",)


def test_it_is_a_value() -> None:
    def declare(name: str = "rl", **options: Any) -> Workflow:
        return workflow("w")[
            async_loop(
                name,
                **{"producer": make, "stop_when": done, "buffer": 2, "max_staleness": 1, **options},
            )[count]
        ]

    assert declare() == VALUE
    assert hash(declare()) == hash(VALUE)
    for change in ({"buffer": 3}, {"max_staleness": None}, {"stop_when": None}, {"name": "other"}):
        assert declare(**change) != VALUE
    edited = VALUE.insert_after("count", use.bind(item="rl.item"))
    assert [node.name for node in edited.body[0].body] == ["count", "use"]  # type: ignore[union-attr]


def test_a_method_is_checked_like_a_function() -> None:
    class Flow(Workflow):
        body = (async_loop("l", producer="make", stop_when="enough")[count],)

        def make(self, ctx: Context) -> Iterator[int]:
            yield 1

        def enough(self, ctx: Context) -> bool:
            return True

    (problem,) = find_problems(Flow)
    assert "is a generator" in problem.message


def test_how_often_it_runs_is_known_to_nobody() -> None:
    (planned,) = plan(VALUE).root.children
    assert str(planned.children[0].runs) == "?"
    none = workflow("w")[async_loop("l", producer=make, stop_when=True)[count]]
    (planned,) = plan(none).root.children
    assert str(planned.children[0].runs) == "0"
