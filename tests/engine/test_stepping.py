"""Step by step, and one stage alone: a run waits, goes on, ends early, and comes again."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import pytest

from crucible_kitchen import engine
from crucible_kitchen.adapters import noop
from crucible_kitchen.context import Context
from crucible_kitchen.engine import RecordInputs, Rng
from crucible_kitchen.errors import ConfigError, CrucibleError, StageError, WorkflowError
from crucible_kitchen.graph import Stage, Workflow, loop, parallel, scope, stage, workflow
from crucible_kitchen.ports import TrainingClient

RAN: list[str] = []


@stage(writes="total")
def add(total: int, item: int) -> int:
    RAN.append("add")
    return total + item


@stage(writes="total")
def begin(start: int) -> int:
    return start


@stage
async def clean(total: int = 0) -> None:
    RAN.append("clean")


@stage(writes="drawn")
def draw(total: int, rng: Rng) -> float:
    return rng.random() + total


def adding() -> Workflow:
    return workflow("w")[
        begin,
        loop("outer", over=[0, 1])[
            loop("inner", over=[1, 2])[add.bind(item="inner.item")],
            draw,
        ],
    ].finally_[clean]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    RAN.clear()
    yield
    deadline = time.monotonic() + 5
    while any(t.name.startswith("crucible") for t in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_without_breakpoints_every_event_comes_and_the_run_waits_at_it() -> None:
    everything: list[engine.Event] = []
    engine.run(adding(), {"start": 5}, handlers=[everything.append])
    RAN.clear()
    seen = []
    for event in adding().steps({"start": 5}):
        seen.append((event.kind, event.path))
        if event.kind == "stage.start" and event.path.endswith("/add"):
            before = len(RAN)
            time.sleep(0.002)
            assert len(RAN) == before, "it did not wait"
    assert seen == [(event.kind, event.path) for event in everything]


def test_breakpoints_stop_before_stages_and_show_the_state_there() -> None:
    seen = []
    for event in adding().steps({"start": 5}, breakpoints=["*/add"]):
        assert event.kind == "stage.start"
        state = event.context.state
        seen.append((event.path, state.total, state["inner.item"]))
    assert seen == [
        ("w/outer[0]/inner[0]/add", 5, 1),
        ("w/outer[0]/inner[1]/add", 6, 2),
        ("w/outer[1]/inner[0]/add", 8, 1),
        ("w/outer[1]/inner[1]/add", 9, 2),
    ]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*/outer[1]/inner[0]/add", ["w/outer[1]/inner[0]/add"]),
        ("w/outer[1]/*", ["w/outer[1]/inner", "w/outer[1]/inner[0]/add", "w/outer[1]/inner[1]/add",
                          "w/outer[1]/draw"]),
        ("w/outer", ["w/outer"]),
        ("w/outer/draw", ["w/outer[0]/draw", "w/outer[1]/draw"]),
        ("*/cle?n", ["w/finally/clean"]),
    ],
)  # fmt: skip
def test_patterns(pattern, paths) -> None:
    steps = adding().steps({"start": 0}, breakpoints=[pattern])
    assert [event.path for event in steps] == paths


def test_the_result_is_what_the_generator_returns() -> None:
    steps = adding().steps({"start": 1}, breakpoints=[])
    with pytest.raises(StopIteration) as caught:
        next(steps)
    assert caught.value.value.context.state.total == 7


def test_leaving_early_ends_the_run_with_its_clean_up() -> None:
    for _ in adding().steps({"start": 0}, breakpoints=["*/inner[1]/add"]):
        break
    assert RAN == ["add", "clean"]
    RAN.clear()
    for _ in adding().steps({"start": 0}, breakpoints=["*/clean"]):
        break
    assert RAN[-1] == "clean"


def test_a_reader_that_fails_ends_the_run_too() -> None:
    def read() -> None:
        with closing(adding().steps({"start": 0}, breakpoints=["*/add"])) as steps:
            for _ in steps:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert RAN[-1] == "clean"


def test_errors_of_the_run_come_where_the_next_event_is_asked_for() -> None:
    @stage
    def fails() -> None:
        raise OSError("no")

    steps = workflow("w")[fails].steps(breakpoints=["w/fails"])
    assert next(steps).path == "w/fails"
    with pytest.raises(StageError, match="OSError: no"):
        next(steps)
    with pytest.raises(WorkflowError, match="unknown-key"):
        list(adding().steps({}))


def test_a_breakpoint_that_is_nowhere_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"breakpoints: nothing in w is at '\*/ad'.*'add'"):
        list(adding().steps({"start": 0}, breakpoints=["*/ad"]))


def test_members_and_scopes_show_their_own_state() -> None:
    w = workflow("w")[
        begin,
        parallel("p")[add.bind(item=1, writes="a").with_(name="one"), draw],
        scope("s")[begin.bind(start=3), add.bind(item=1)],
    ]
    seen = {}
    for event in w.steps({"start": 5}, breakpoints=["*/one", "*/draw", "*/s/add"]):
        seen[event.path] = event.context.state.total
    assert seen == {"w/p/one": 5, "w/p/draw": 5, "w/s/add": 3}


def test_spin_runs_a_stage_on_what_it_was_given(tmp_path) -> None:
    recorder = RecordInputs("*/add", "*/draw")
    drawn = []

    def note(event: engine.Event) -> None:
        if event.path.endswith("draw"):
            drawn.append(event)

    first = engine.run(adding(), {"start": 5}, handlers=[recorder, note], run_dir=tmp_path, seed=3)
    again = adding().spin("w/outer[1]/draw", recorded=tmp_path)
    assert again.context.state.drawn == first.context.state.drawn
    other = adding().spin("w/outer[0]/draw", recorded=tmp_path)
    assert other.context.state.drawn != first.context.state.drawn
    added = adding().spin("w/outer[0]/inner[1]/add", recorded=tmp_path)
    assert added.context.state.total == 8
    assert added.context.state["inner.item"] == 2


def test_spin_runs_the_stage_as_it_is_now(tmp_path) -> None:
    engine.run(adding(), {"start": 5}, handlers=[RecordInputs()], run_dir=tmp_path)

    @stage(writes="total")
    def fixed(total: int, item: int) -> int:
        return total * 100 + item

    changed = adding().replace("add", fixed.bind(item="inner.item").with_(name="add"))
    result = changed.spin("w/outer[0]/inner[1]/add", recorded=tmp_path)
    assert result.context.state.total == 602
    # A key of the configuration comes back too, and can be replaced.
    assert adding().spin("w/begin", recorded=tmp_path).context.state.total == 5
    assert adding().spin("w/begin", {"start": 9}, recorded=tmp_path).context.state.total == 9


def test_spin_takes_the_inputs_themselves_and_adapters() -> None:
    @stage(writes="answer")
    def ask(question: str, *, training_client: TrainingClient) -> str:
        return question + type(training_client).__name__

    w = workflow("w")[ask]
    adapters = {"training_client": noop.TrainingClient()}
    result = w.spin("w/ask", {}, adapters, recorded={"question": "who? "})
    assert result.context.state.answer == "who? TrainingClient"
    with pytest.raises(WorkflowError, match="missing-adapter"):
        w.spin("w/ask", recorded={"question": "who?"})
    with pytest.raises(WorkflowError, match="unknown-key"):
        w.spin("w/ask", {}, adapters, recorded={})


def test_a_stage_that_sees_everything_is_given_everything(tmp_path) -> None:
    class Whole(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.put_state("seen", sorted([*ctx.state, *ctx.config]))

    w = workflow("w")[begin, Whole()]
    engine.run(w, {"start": 1, "api_key": "sk-x"}, handlers=[RecordInputs()], run_dir=tmp_path)
    assert w.spin("w/whole", recorded=tmp_path).context.state.seen == ["start", "total"]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.pickle"))
    assert b"sk-x" not in kept


def test_what_spin_cannot_find_is_said(tmp_path) -> None:
    engine.run(adding(), {"start": 5}, handlers=[RecordInputs("*/add")], run_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"no stage is at 'w/outer/ad'.*did you mean"):
        adding().spin("w/outer/ad", recorded=tmp_path)
    with pytest.raises(ConfigError, match=r"no inputs of 'w/outer\[7\]/inner\[0\]/add'.*did you"):
        adding().spin("w/outer[7]/inner[0]/add", recorded=tmp_path)
    for path in tmp_path.rglob("*.pickle"):
        path.write_bytes(b"torn")
    with pytest.raises(CrucibleError, match="cannot be read"):
        adding().spin("w/outer[0]/inner[0]/add", recorded=tmp_path)
    with pytest.raises(ConfigError, match="RecordInputs: the run needs a run_dir"):
        engine.run(adding(), {"start": 5}, handlers=[RecordInputs()])
    with pytest.raises(ConfigError, match="RecordInputs: nothing in w is at"):
        engine.run(adding(), {"start": 5}, handlers=[RecordInputs("x")], run_dir=tmp_path)


def test_what_cannot_be_kept_is_left_out_with_a_warning(tmp_path) -> None:
    @stage(writes="lock")
    def lock() -> Any:
        return threading.Lock()

    @stage(writes="n")
    def use(lock: Any) -> int:
        return 1

    w = workflow("w")[lock, use]
    with pytest.warns(RuntimeWarning, match="input 'lock' of w/use is left out"):
        engine.run(w, {}, handlers=[RecordInputs("*/use")], run_dir=tmp_path)
    with pytest.raises(WorkflowError, match="unknown-key"):
        w.spin("w/use", {}, recorded=tmp_path)
