"""Plans: what a run will do, without running anything; and that runs then do it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen import engine
from crucible_kitchen.adapters import noop
from crucible_kitchen.context import Context
from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.graph import (
    Stage,
    Timing,
    Workflow,
    case,
    fan_out,
    loop,
    parallel,
    plan,
    scope,
    stage,
    stream_loop,
    switch,
    when,
    workflow,
)
from crucible_kitchen.graph.counts import Count
from crucible_kitchen.ports import TrainingClient


@stage(writes="rows")
def load(name: str) -> list[int]:
    raise AssertionError("a plan runs nothing")


@stage(writes="loss")
def train(rows: list[int], *, training_client: TrainingClient) -> float:
    raise AssertionError("a plan runs nothing")


@stage
def look(rows: list[int]) -> None: ...


@stage
def idle() -> None: ...


def epochs(epochs: int) -> range:
    return range(epochs)


def runs(made: Any) -> dict[str, str]:
    return {node.path.partition("/")[2]: str(node.runs) for node in made.root.walk()}


def test_counts_come_from_the_configuration() -> None:
    made = plan(
        workflow("w")[
            loop("epochs", over=epochs)[
                idle,
                loop("batches", over="batches")[idle.with_(name="twice")],
                stream_loop("stream", over=[1, 2])[idle.with_(name="in_stream")],
            ],
            fan_out("copies", over=lambda epochs: [0] * epochs)[idle.with_(name="copy")],
            loop("asks", while_=True, max_iterations=7)[idle.with_(name="bounded")],
            loop("never", while_="off", max_iterations=7)[idle.with_(name="not_at_all")],
        ],
        {"epochs": 3, "batches": ["a", "b"], "off": False},
    )
    assert runs(made) == {
        "": "1",
        "epochs": "1",
        "epochs/idle": "3",
        "epochs/batches": "3",
        "epochs/batches/twice": "6",
        "epochs/stream": "3",
        "epochs/stream/in_stream": "6",
        "copies": "1",
        "copies/copy": "3",
        "asks": "1",
        "asks/bounded": "7",
        "never": "1",
        "never/not_at_all": "0",
    }


def test_what_depends_on_the_run_is_not_known_before_it() -> None:
    made = plan(
        workflow("w")[
            load,
            loop("rows", over="rows")[idle],
            loop("some", while_=lambda rows: bool(rows), max_iterations=4)[
                load.with_(name="again")
            ],
            loop("lazy", over=lambda name: iter(name))[idle.with_(name="c")],
            when(lambda rows: True)[idle.with_(name="d")].otherwise[idle],
        ],
        {"name": "x"},
    )
    assert runs(made) == {
        "": "1",
        "load": "1",
        "rows": "1",
        "rows/idle": "?",
        "some": "1",
        "some/again": "0-4",
        "lazy": "1",
        "lazy/c": "?",
        "when": "1",
        "when/d": "0-1",
        "when/otherwise": "0-1",
        "when/otherwise/idle": "0-1",
    }


def test_branches_that_the_configuration_decides() -> None:
    made = plan(
        workflow("w")[
            when("fast")[idle].otherwise[idle],
            switch("method")[
                case("sft")[idle.with_(name="a")], case("dpo", "ipo")[idle.with_(name="b")]
            ].otherwise[idle.with_(name="c")],
        ]
        .finally_[idle]
        .on_error[idle],
        {"fast": False, "method": "ipo"},
    )
    assert runs(made) == {
        "": "1",
        "fast": "1",
        "fast/idle": "0",
        "fast/otherwise": "1",
        "fast/otherwise/idle": "1",
        "method": "1",
        "method/sft": "0",
        "method/sft/a": "0",
        "method/dpo_ipo": "1",
        "method/dpo_ipo/b": "1",
        "method/otherwise": "0",
        "method/otherwise/c": "0",
        "on_error": "0-1",
        "on_error/idle": "0-1",
        "finally": "1",
        "finally/idle": "1",
    }


def test_methods_of_the_class_form_are_asked_with_the_configuration_alone() -> None:
    class Mine(Workflow):
        body = [loop("epochs", over="often")[idle], loop("steps", over="unknown")[idle]]  # noqa: RUF012

        def often(self, ctx: Context) -> range:
            return range(ctx.config.epochs * ctx.get_config("more", 2))

        def unknown(self, ctx: Context) -> range:
            return range(ctx.state.steps)

    found = runs(plan(Mine, {"epochs": 2}))
    assert found["epochs/idle"] == "4"
    assert found["steps/idle"] == "?"


def test_a_default_counts_only_where_nobody_may_write_the_key() -> None:
    class Opaque(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx

    def often(times: int = 2) -> range:
        return range(times)

    body = loop("l", over=often)[idle]
    assert plan(workflow("w")[body])["l/idle"].runs == Count(2, 2)
    assert plan(workflow("w")[Opaque(), body])["l/idle"].runs == Count()


def test_a_callable_that_fails_is_a_warning() -> None:
    made = plan(workflow("w")[loop("l", over=lambda n: range(1 // n))[idle]], {"n": 0})
    (warning,) = made.warnings
    assert warning.code == "value-fails"
    assert warning.path == "w/l"
    assert "ZeroDivisionError" in warning.message
    assert warning.source.partition(":")[0].endswith("test_plan.py")
    assert made["l/idle"].runs == Count()
    assert "ZeroDivisionError" in str(made)


def test_problems_are_raised_as_for_a_run() -> None:
    with pytest.raises(WorkflowError) as caught:
        plan(workflow("w")[load, look, train], {})
    assert [p.code for p in caught.value.problems] == ["unknown-key", "missing-adapter"]


def test_width_and_critical_path_without_times() -> None:
    client = noop.TrainingClient()
    made = plan(
        workflow("w")[
            load,
            look,
            train,
            parallel("evals", max_concurrency=2)[
                look.with_(name="a"), look.with_(name="b"), look.with_(name="c")
            ],
            scope("inner")[look.with_(name="d")],
        ],
        {"name": "x"},
        {"training_client": client},
    )
    assert made.width == 5  # look, train, two of the three, d
    assert made.critical_path[0] == "w/load"
    assert len(made.critical_path) == 2
    assert made.ports == {
        "training_client": "crucible_kitchen.adapters.noop.training_client.TrainingClient"
    }
    assert made.config_keys == ("name",)
    assert made.state_keys == ("rows", "loss")


def test_width_of_copies() -> None:
    def copies(**options: Any) -> int | None:
        body = fan_out("f", **options)[look]
        return plan(workflow("w")[load, body], {"name": "x", "many": [1] * 9}).width

    assert copies(over="many") == 9
    assert copies(over="many", max_concurrency=4) == 4
    assert copies(over="rows", max_concurrency=4) == 4
    assert copies(over="rows") is None


def test_times_of_an_earlier_run() -> None:
    w = workflow("w")[
        load,
        loop("epochs", over=epochs)[look, idle],
        loop("rows", over="rows")[idle.with_(name="each")],
        when(lambda rows: True)[idle.with_(name="yes")].otherwise[idle.with_(name="no")],
    ].finally_[idle.with_(name="end")]
    times = {
        "w/load": Timing(1, 1.0),
        "w/epochs/look": Timing(2, 4.0),
        "w/epochs/idle": Timing(2, 1.0),
        "w/rows/each": Timing(5, 0.5),
        "w/when/yes": Timing(3, 0.3),
        "w/when/otherwise/no": Timing(1, 0.2),
        "w/finally/end": Timing(1, 0.25),
    }
    made = plan(w, {"name": "x", "epochs": 10}, timings=times)
    assert made["look"].seconds == pytest.approx(20)  # twice then, ten times now
    assert made["each"].seconds == pytest.approx(0.5)  # nobody knows how often now
    assert made["when"].seconds == pytest.approx(0.5)
    assert made.sequential_s == pytest.approx(1 + 20 + 5 + 0.5 + 0.5 + 0.25)
    assert made.critical_s == pytest.approx(1 + 20 + 0.25)
    assert made.critical_path == ("w/load", "w/epochs/look", "w/finally/end")
    shown = str(made)
    assert "21.2 s of 27.2 s in a row" in shown
    unseen = plan(w, {"name": "x", "epochs": 1}, timings={"w/load": Timing(1, 1.0)})
    assert unseen["look"].seconds is None
    assert "?" in str(unseen)


def test_a_plan_is_plain_data_and_fits_80_columns() -> None:
    long = idle.with_(name="a_name_that_goes_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on")
    w = workflow("w")[load, loop("epochs", over=epochs)[long, train]]
    made = plan(w, {"name": "x", "epochs": 2}, {"training_client": noop.TrainingClient})
    data = json.loads(json.dumps(made.to_dict()))
    assert data["workflow"]["children"][1]["children"][1]["runs"] == [2, 2]
    assert data["workflow"]["order"] == [
        {"before": 0, "after": 1, "why": ["read-after-write"], "keys": ["rows"]}
    ]
    assert max(map(len, str(made).splitlines())) <= 80
    assert made["train"].reads == ("rows",)
    with pytest.raises(KeyError, match="0 nodes are at 'gone'"):
        made["gone"]


@st.composite
def workflows(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """Random programs whose counts the configuration decides, with exact counts."""
    number = iter(range(10_000))
    config: dict[str, Any] = {}

    def key(value: Any) -> str:
        config[name := f"k{next(number)}"] = value
        return name

    def node(depth: int) -> Any:
        kind = draw(st.sampled_from(["stage"] if depth == 0 else KINDS))
        name = f"n{next(number)}"
        if kind == "stage":
            return idle.with_(name=name)
        if kind == "when":
            return when(key(draw(st.booleans())))[body(depth)].otherwise[body(depth)]
        if kind == "switch":
            block = switch(key(draw(st.integers(0, 2))))
            return block[case(0)[body(depth)], case(1)[body(depth)]].otherwise[body(depth)]
        if kind == "while":
            often = draw(st.integers(0, 3))
            return loop(name, while_=key(draw(st.booleans())), max_iterations=often)[body(depth)]
        items = [0] * draw(st.integers(0, 3))
        if kind == "parallel":
            return parallel(name)[body(depth)]
        return {"loop": loop, "fan_out": fan_out}[kind](name, over=key(items))[body(depth)]

    def body(depth: int) -> Any:
        return [node(depth - 1) for _ in range(draw(st.integers(1, 2)))]

    return workflow("w")[body(3)].finally_[idle], config


KINDS = ["stage", "loop", "while", "when", "switch", "fan_out", "parallel"]


@settings(max_examples=60, deadline=None)
@given(workflows())
def test_a_run_does_what_its_plan_says(made) -> None:
    w, config = made
    counted: Counter[str] = Counter()

    def count(event: engine.Event) -> None:
        if event.kind == "stage.stop":
            path = event.path
            while "[" in path:
                head, _, tail = path.partition("[")
                path = head + tail.partition("]")[2]
            counted[path] += 1

    engine.run(w, config, handlers=[count])
    planned = plan(w, config)
    assert {stage.path: stage.runs.exact for stage in planned.stages if stage.runs.exact} == counted
