"""A run that was stopped goes on from its last checkpoint: values, loops, sources, refusals."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Event, Every, Rng, RunResult, Seconds, run
from crucible_kitchen.errors import ConfigError, CrucibleError, StageError, WorkflowError
from crucible_kitchen.graph import (
    Stage,
    Workflow,
    case,
    fan_out,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    switch,
    when,
    workflow,
)
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

SAID: list[Any] = []
TRIPPED: list[int] = []


class Trip(Exception):
    """What stops a run in these tests."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SAID.clear()
    TRIPPED.clear()


@stage
def say(what: Any) -> None:
    SAID.append(what)


@stage
def trip(count: int = 0) -> None:
    """Fails the first time it gets to `count` 3."""
    if count == 3 and not TRIPPED:
        TRIPPED.append(count)
        raise Trip


@stage(writes="count")
def count_up(count: int = 0) -> int:
    return count + 1


def stopped_and_resumed(value: Workflow, folder: Path, **options: Any) -> RunResult:
    """Run until it trips, then resume."""
    with pytest.raises(StageError) as caught:
        run(value, run_dir=folder, checkpoint=options.pop("checkpoint", "stage"), **options)
    assert isinstance(caught.value.__cause__, Trip)
    notes = getattr(caught.value, "__notes__", [])
    kept = "commits" in (folder / "journal" / "journal.jsonl").read_text()
    assert kept == any(f"crucible resume {folder}" in note for note in notes)
    return run(value, run_dir=folder, resume=True, **options)


def body(item: str) -> list[Any]:
    return [say.bind(what=item), count_up, trip]


def generated(metrics: Metrics) -> Iterator[int]:
    for number in range(5):
        metrics.record("made", number)
        yield number * 10


class Cursor:
    """A source with a place that can be saved; it says from where it was read."""

    def __init__(self) -> None:
        self.place = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        while self.place < 5:
            self.place += 1
            SAID.append(f"read {self.place}")
            yield self.place

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


@pytest.mark.parametrize(
    "block",
    [
        loop("l", over=range(5)),
        loop("l", over=lambda: [0, 1, 2, 3, 4]),
        loop("l", while_=lambda count=0: count < 5),
        loop("l", over=lambda: range(9), max_iterations=5),
        stream_loop("l", over=lambda: range(5)),
        loop("l", over={0, 1, 2, 3, 4}),
    ],
    ids=["literal", "list", "while", "bounded", "stream", "set"],
)
def test_a_loop_goes_on_in_its_iteration(block: Any, tmp_path: Path) -> None:
    result = stopped_and_resumed(workflow("w")[block[body("l.item")]], tmp_path)
    assert SAID == [0, 1, 2, 3, 4]
    assert result.context.state == {"count": 5}


def test_a_generator_is_gone_through_again_and_its_metrics_count_once(tmp_path: Path) -> None:
    result = stopped_and_resumed(workflow("w")[loop("l", over=generated)[body("l.item")]], tmp_path)
    assert SAID == [0, 10, 20, 30, 40]
    assert [record.value for record in result.metrics.history("made")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [loop, stream_loop])
@pytest.mark.parametrize("most", [None, 4])
def test_a_source_with_a_state_is_not_read_again(
    make: Any, most: int | None, tmp_path: Path
) -> None:
    options = {} if most is None or make is stream_loop else {"max_iterations": most}
    block = make("l", over=lambda: Cursor(), **options)
    result = stopped_and_resumed(workflow("w")[block[body("l.item")]], tmp_path)
    last = 4 if options else 5
    assert [one for one in SAID if isinstance(one, int)] == list(range(1, last + 1))
    reads = [one for one in SAID if isinstance(one, str)]
    # Item 3 was in use when the run stopped; a stream had read ahead, which is made again.
    assert reads.count("read 1") == reads.count("read 2") == reads.count("read 3") == 1
    assert result.context.state == {"count": last}


def test_what_a_loop_goes_through_is_what_it_was_when_it_began(tmp_path: Path) -> None:
    @stage(writes="queue")
    def fill() -> list[int]:
        return [1, 2, 3, 4]

    @stage(writes="queue")
    def empty(queue: list[int]) -> list[int]:
        return queue[:-1]

    for over in ("queue", lambda queue: (x for x in queue)):
        _begin_again()
        value = workflow("w")[fill, loop("l", over=over)[body("l.item"), empty]]
        result = stopped_and_resumed(value, tmp_path / str(id(over)))
        assert SAID == [1, 2, 3, 4]
        assert result.context.state["queue"] == []


def _begin_again() -> None:
    SAID.clear()
    TRIPPED.clear()


def test_every_block_is_entered_only_on_the_way(tmp_path: Path) -> None:
    asked: list[str] = []

    def yes() -> bool:
        asked.append("when")
        return True

    def second() -> str:
        asked.append("switch")
        return "b"

    inside = loop("l", over=range(4))[count_up, say.bind(what="l.item"), trip]
    value = workflow("w")[
        when(lambda: False)[say.bind(what=1)].otherwise[
            when(yes)[scope("s")[switch(second)[case("a")[say.bind(what=2)], case("b")[inside]]]]
        ]
    ]
    result = stopped_and_resumed(value, tmp_path)
    assert asked == ["when", "switch"]
    assert SAID == [0, 1, 2, 3]
    assert result.context.state == {"s.count": 4}


@pytest.mark.parametrize("width", [1, 3])
def test_copies_and_members_go_on_each_where_it_was(width: int, tmp_path: Path) -> None:
    @stage(writes="count")
    def square(item: int) -> int:
        SAID.append(item)
        return item * item

    copies = fan_out("f", over=lambda: range(4), collect="count", max_concurrency=width)[
        square.bind(item="f.item"), say.bind(what="f.index"), trip_at_nine
    ]
    members = parallel("p", max_concurrency=width)[
        scope("x")[count_up, say.bind(what=["x"])], scope("y")[count_up]
    ]
    result = stopped_and_resumed(workflow("w")[members, copies], tmp_path)
    assert result.context.state == {"x.count": 1, "y.count": 1, "f.count": [0, 1, 4, 9]}
    assert SAID.count(["x"]) == 1
    for item in range(4):
        assert SAID.count(item) == 2, "a stage of a copy ran again"


@stage
def trip_at_nine(count: int) -> None:
    if count == 9 and not TRIPPED:
        TRIPPED.append(count)
        raise Trip


def test_values_of_all_kinds_come_back_as_they_were(tmp_path: Path) -> None:
    made = {
        "small": {"a": [1, 2.5, None, True, "text"]},
        "nan": math.nan,
        "tuple": (1, (2, 3)),
        "array": np.arange(3000, dtype=np.float32).reshape(3, 1000),
        "text": "x" * 5000,
        "odd": {1: "int key", "$blob": "no blob"},
        "surrogate": "\ud800",
        "huge": 2**80,
    }

    class Fill(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx.merge_state(made).put_metadata("note", (1, 2))

    value = workflow("w")[Fill, loop("l", over=range(4))[count_up, trip]]
    result = stopped_and_resumed(value, tmp_path)
    state = result.context.state
    assert math.isnan(state["nan"])
    np.testing.assert_array_equal(state["array"], made["array"])
    assert state["array"].dtype == np.float32
    for key in ("small", "tuple", "text", "odd", "surrogate", "huge"):
        assert state[key] == made[key]
        assert type(state[key]) is type(made[key])
    assert result.context.metadata["note"] == (1, 2)


def test_a_value_changed_in_place_and_returned_is_kept(tmp_path: Path) -> None:
    @stage(writes="items")
    def first() -> list[int]:
        return []

    @stage(writes="items")
    def append(items: list[int], item: int) -> list[int]:
        items.append(item)
        return items

    value = workflow("w")[
        first, loop("l", over=range(5))[append.bind(item="l.item"), count_up, trip]
    ]
    assert stopped_and_resumed(value, tmp_path).context.state["items"] == [0, 1, 2, 3, 4]


def test_random_numbers_go_on(tmp_path: Path) -> None:
    @stage(writes="drawn")
    def draw(*, rng: Rng) -> float:
        return float(rng.random())

    value = workflow("w")[loop("l", over=range(5))[draw, say.bind(what="drawn"), count_up, trip]]
    run(value[loop("l", over=range(5))[draw, say.bind(what="drawn")]], seed=7)
    wanted = list(SAID)
    SAID.clear()
    stopped_and_resumed(value, tmp_path, seed=7)
    assert wanted == SAID


@pytest.mark.parametrize(
    ("checkpoint", "again"),
    [(Every(4), [3, 4]), (Every(5, fsync=False), [2, 3, 4]), (Seconds(1000), [0, 1, 2, 3, 4])],
)
def test_what_came_after_the_last_checkpoint_is_done_again(
    checkpoint: Any, again: list[int], tmp_path: Path
) -> None:
    value = workflow("w")[loop("l", over=range(5))[body("l.item")]]
    result = stopped_and_resumed(value, tmp_path, checkpoint=checkpoint)
    assert [0, 1, 2, *again] == SAID
    assert result.context.state["count"] == 5


def test_a_session_of_a_scope_waits_for_its_gradients(tmp_path: Path) -> None:
    @stage(writes="session")
    def start(*, training_client: TrainingClient) -> Session:
        return training_client.start_session({"model": "noop"})

    @stage
    def forward_backward(session: Session, *, training_client: TrainingClient) -> None:
        training_client.forward_backward(session, [Datum([1, 2], {"labels": [1, 2]})])

    @stage(writes="steps")
    def step(session: Session, *, training_client: TrainingClient) -> int:
        return training_client.optim_step(session, 1e-3).result().step

    value = workflow("w")[
        scope("s")[start, loop("l", over=range(5))[forward_backward, step, count_up, trip]]
    ]
    adapters = {"training_client": noop.TrainingClient}
    result = stopped_and_resumed(value, tmp_path, checkpoint=Every(2), adapters=adapters)
    assert (result.context.state["s.count"], result.context.state["s.steps"]) == (5, 5)


def test_a_checkpoint_is_told_when_it_is_written(tmp_path: Path) -> None:
    lines: list[tuple[str, int]] = []

    def listen(event: Event) -> None:
        if event.kind == "checkpoint":
            text = (tmp_path / "journal" / "journal.jsonl").read_text()
            lines.append((event.path, len(text.splitlines())))

    value = workflow("w")[loop("l", over=range(4))[count_up]]
    run(value, run_dir=tmp_path, checkpoint=Every(2), handlers=[listen])
    assert lines == [("w/l[1]/count_up", 2), ("w/l[3]/count_up", 3)]


def test_the_policy_stays_that_of_the_journal(tmp_path: Path) -> None:
    value = workflow("w")[loop("l", over=range(5))[body("l.item")]]
    stopped_and_resumed(value, tmp_path)
    lines = (tmp_path / "journal" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 15 + 1


def test_events_and_metrics_are_those_of_a_run_never_stopped(tmp_path: Path) -> None:
    def told(name: str) -> list[Any]:
        rows = [
            json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()
        ]
        ignored = ("time", "duration_s", "metadata")
        told = [row for row in rows if row["kind"] != "checkpoint"]
        return [{k: v for k, v in row.items() if k not in ignored} for row in told]

    @stage
    def measure(count: int, *, metrics: Metrics) -> None:
        metrics.record("count", count, step=count, metadata={"by": "hand"})

    value = workflow("w")[scope("s")[loop("l", over=range(5))[count_up, measure, trip]]]
    heard: list[Event] = []
    result = stopped_and_resumed(value, tmp_path / "one", handlers=["jsonl", heard.append])
    assert TRIPPED == [3]
    run(value, run_dir=tmp_path / "two", handlers=["jsonl"])
    assert told("one") == told("two")
    assert [r.metadata for r in result.metrics] == [{"by": "hand"}] * 5
    # A listener is told what it is in the middle of, and that it is so.
    again = [event.path for event in heard if event.metadata and event.metadata.get("resumed")]
    assert again == ["w", "w/s", "w/s/l", "w/s/l[2]"]


def test_a_finished_run_gives_its_result_and_runs_nothing(tmp_path: Path) -> None:
    value = workflow("w")[loop("l", over=range(2))[say.bind(what="l.item"), count_up]]
    first = run(value, run_dir=tmp_path, checkpoint="stage")
    SAID.clear()
    seen: list[Context] = []
    again = run(value, run_dir=tmp_path, resume=True, on_context=seen.append)
    assert SAID == []
    assert again.context.state == first.context.state == seen[0].state
    assert again.context.metadata["run_id"] == first.context.metadata["run_id"]


def test_a_finished_run_takes_no_other_configuration(tmp_path: Path) -> None:
    value = workflow("w")[count_up]
    run(value, {"rate": 1, "gone": 1}, run_dir=tmp_path, checkpoint="stage")
    with pytest.raises(
        ConfigError, match=r"has finished.*with:\n  - config rate: 1 before, 2 now$"
    ):
        run(value, {"rate": 2}, run_dir=tmp_path, resume=True, allow_changed=True)
    again = run(value, {"rate": 1, "new": 1}, run_dir=tmp_path, resume=True, allow_changed=True)
    assert again.context.state["count"] == 1, "keys of another version change nothing"


def test_a_torn_line_is_ignored_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    value = workflow("w")[loop("l", over=range(5))[body("l.item")]]
    with pytest.raises(StageError):
        run(value, run_dir=tmp_path, checkpoint="stage")
    path = tmp_path / "journal" / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-9])
    run(value, run_dir=tmp_path, resume=True)
    assert SAID == [0, 1, 2, 3, 4]
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:-9] + b"\n", *lines[4:]]))
    with pytest.raises(CrucibleError, match="line 4 is damaged"):
        run(value, run_dir=tmp_path, resume=True)


def test_a_damaged_or_missing_file_of_a_value_is_named(tmp_path: Path) -> None:
    @stage(writes="array")
    def make() -> np.ndarray[Any, Any]:
        return np.arange(1000)

    value = workflow("w")[make, loop("l", over=range(5))[count_up, trip]]
    with pytest.raises(StageError):
        run(value, run_dir=tmp_path, checkpoint="stage")
    (blob,) = (tmp_path / "journal" / "blobs").iterdir()
    data = blob.read_bytes()
    blob.write_bytes(data[:-1])
    with pytest.raises(CrucibleError, match="is damaged"):
        run(value, run_dir=tmp_path, resume=True)
    blob.unlink()
    with pytest.raises(CrucibleError, match="could not read"):
        run(value, run_dir=tmp_path, resume=True)
    blob.write_bytes(data)
    assert run(value, run_dir=tmp_path, resume=True).context.state["count"] == 5


def test_another_workflow_or_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    value = workflow("w")[loop("l", over=range(5))[body("l.item")]]
    with pytest.raises(StageError):
        run(value, {"rate": 1, "api_key": "abcdef"}, run_dir=tmp_path, checkpoint="stage")
    other = value.insert_before("say", say.bind(what="l.index").with_(name="more"))
    with pytest.raises(ConfigError) as caught:
        run(other, {"rate": 2, "api_key": "ghijkl"}, run_dir=tmp_path, resume=True)
    said = str(caught.value)
    assert "config rate: 1 before, 2 now" in said
    assert "workflow w/l/more: not there before" in said
    assert "allow_changed=True" in said
    assert "abcdef" not in said
    result = run(other, {"rate": 2}, run_dir=tmp_path, resume=True, allow_changed=True)
    assert result.context.state["count"] == 5


def test_a_place_that_is_gone_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    value = workflow("w")[loop("l", over=range(5))[body("l.item")]]
    with pytest.raises(StageError):
        run(value, run_dir=tmp_path, checkpoint="stage")
    SAID.clear()
    other = value.replace("count_up", count_up.with_(name="renamed"))
    with pytest.raises(CrucibleError, match=r"stopped at w/l\[2\]/count_up"):
        run(other, run_dir=tmp_path, resume=True, allow_changed=True)
    assert SAID == []


def test_what_cannot_be_kept_is_found_before_or_named_when_it_is_written(tmp_path: Path) -> None:
    @stage(writes="lines")
    def lines() -> Iterator[int]:
        return (number for number in (1, 2))

    @stage(writes="file")
    def opened() -> TextIOWrapper:
        return (tmp_path / "x").open("w")

    value = workflow("w")[lines, loop("l", over="lines")[say.bind(what="l.item")]]
    run(value)  # nobody asked for checkpoints
    with pytest.raises(StageError, match="writes 'lines', which cannot be kept") as caught:
        run(value, run_dir=tmp_path, checkpoint="stage")
    assert caught.value.stage == "w/lines"
    with pytest.raises(WorkflowError) as refused:
        run(workflow("w")[opened], run_dir=tmp_path / "b", checkpoint="stage")
    (problem,) = refused.value.problems
    assert (problem.code, problem.path) == ("cannot-checkpoint", "w/opened")


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    value = workflow("w")[count_up]
    for wrong in ("step", 3, True):
        with pytest.raises(ConfigError, match="checkpoint must be"):
            run(value, run_dir=tmp_path, checkpoint=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="checkpoint needs a run_dir"):
        run(value, checkpoint="stage")
    with pytest.raises(ConfigError, match="has no journal"):
        run(value, run_dir=tmp_path, resume=True)
    for make in (lambda: Every(0), lambda: Every(True), lambda: Seconds(-1)):
        with pytest.raises(ConfigError, match="at least"):
            make()


def test_two_processes_never_run_one_run(tmp_path: Path) -> None:
    @stage
    def resume_inside() -> None:
        run(value, run_dir=tmp_path, resume=True)

    value = workflow("w")[count_up, resume_inside]
    with pytest.raises(StageError, match="another process is running"):
        run(value, run_dir=tmp_path, checkpoint="stage")


def test_files_of_values_that_nothing_names_any_more_are_removed(tmp_path: Path) -> None:
    @stage(writes="array")
    def make(count: int) -> np.ndarray[Any, Any]:
        return np.full(200, count)

    run(
        workflow("w")[loop("l", over=range(600))[count_up, make]],
        run_dir=tmp_path,
        checkpoint="stage",
    )
    assert len(os.listdir(tmp_path / "journal" / "blobs")) < 300
