"""Events, and those who listen to them."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.context import Metrics
from crucible_kitchen.engine import Event, run
from crucible_kitchen.engine.events import KINDS
from crucible_kitchen.engine.handlers.console import Console, duration
from crucible_kitchen.engine.handlers.jsonl import JsonLines, plain
from crucible_kitchen.engine.redact import Redactor
from crucible_kitchen.errors import ConfigError, StageError
from crucible_kitchen.graph import loop, stage, when, workflow


@stage
def train(i: int, *, metrics: Metrics) -> None:
    metrics.record("loss", 3.0 / (1 + i), step=i, metadata={"api_key": "sk-12345"})
    metrics.record("tokens_per_second", 1234.0, step=i)
    metrics.record("grad_norm", 0.5, step=i)


@stage
def evaluate(*, metrics: Metrics) -> None:
    metrics.record("eval_loss", 2.25, step=3)


@stage
def boom() -> None:
    raise ValueError("no [bold] luck with sk-12345")


TRAIN = workflow("sft")[
    loop("epochs", over=range(2))[
        loop("batches", over=range(3))[train.bind(i="batches.index")], evaluate
    ]
]


def test_events_of_a_run() -> None:
    events: list[Event] = []
    run(workflow("w")[loop("l", over=[5])[train.bind(i="l.index")]], handlers=[events.append])
    assert [(e.kind, e.path) for e in events] == [
        ("run.start", "w"),
        ("block.start", "w/l"),
        ("iteration.start", "w/l[0]"),
        ("stage.start", "w/l[0]/train"),
        ("metric", "w/l[0]"),
        ("metric", "w/l[0]"),
        ("metric", "w/l[0]"),
        ("stage.stop", "w/l[0]/train"),
        ("block.stop", "w/l"),
        ("run.stop", "w"),
    ]
    assert (events[4].name, events[4].value, events[4].step) == ("loss", 3.0, 0)
    assert (events[1].total, events[2].iteration) == (1, 0)
    assert all(e.duration_s is not None for e in events if e.kind.endswith(".stop"))
    assert {e.kind for e in events} <= set(KINDS)
    assert [e.time for e in events] == sorted(e.time for e in events)


def test_events_of_a_failure_and_of_clean_up() -> None:
    events: list[Event] = []
    value = workflow("w")[when(True)[boom]].finally_[evaluate]
    with pytest.raises(StageError):
        run(value, {"api_key": "sk-12345"}, handlers=[events.append])
    kinds = [(e.kind, e.path) for e in events]
    assert kinds[1:3] == [("stage.start", "w/when/boom"), ("stage.error", "w/when/boom")]
    assert kinds[-1] == ("run.error", "w")
    assert ("block.start", "w/finally") in kinds
    assert "ValueError" in (events[2].error or "")
    assert "sk-12345" not in repr(events)


def test_secrets_of_metadata_are_hidden_from_everyone() -> None:
    events: list[Event] = []
    run(TRAIN, handlers=[events.append], metadata={"hub": {"token": "sk-12345"}, "max_tokens": 5})
    assert "sk-12345" not in repr(events)
    assert events[0].metadata is not None
    assert events[0].metadata["max_tokens"] == 5


def test_a_handler_that_fails_is_reported_once_and_left_out() -> None:
    calls: list[str] = []
    others: list[Event] = []

    def fragile(event: Event) -> None:
        calls.append(event.kind)
        raise RuntimeError("full")

    with pytest.warns(RuntimeWarning, match="fragile failed and gets no more events") as caught:
        run(TRAIN, handlers=[fragile, others.append])
    assert calls == ["run.start"]
    assert len(caught) == 1
    assert others[-1].kind == "run.stop"


def test_handlers_are_closed_even_after_a_failure() -> None:
    class Closes:
        closed = 0

        def __call__(self, event: Event) -> None: ...

        def close(self) -> None:
            self.closed += 1
            raise OSError("already gone")

    handler = Closes()
    with pytest.warns(RuntimeWarning, match="already gone"), pytest.raises(StageError):
        run(workflow("w")[boom], handlers=[handler])
    assert handler.closed == 1


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ("consol", "no handler 'consol'; did you mean 'console'"),
        ("jsonl", "needs a run_dir"),
        (3, "a name or a callable, got 3"),
    ],
)
def test_bad_handlers(given_: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(TRAIN, handlers=[given_])


def test_json_lines(tmp_path: Path) -> None:
    run(TRAIN, handlers=["jsonl"], run_dir=tmp_path, metadata={"hub_token": "sk-12345"})
    text = (tmp_path / "events.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert "sk-12345" not in text
    assert rows[0]["metadata"]["hub_token"] == "[hidden]"
    assert [row["kind"] for row in rows].count("metric") == 20
    assert "step" not in rows[0]
    assert len({row["path"] for row in rows if row["kind"] == "stage.start"}) == 8


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (True, True),
        ({1: [2, (3,)]}, {"1": [2, [3]]}),
        ({"apiKey": "x", "password": ["a"], "max_tokens": 3, "tokenizer": "t"}, None),
        (Path("a"), "PosixPath('a')"),
        ("s3://cook:hunter22@host/x", "s3://cook:[hidden]@host/x"),
        ("sftp://cook@host:22/x", "sftp://cook@host:22/x"),
        (b"x" * 1000, None),
    ],
)
def test_plain_values(value: Any, wanted: Any) -> None:
    got = plain(value)
    json.dumps(got, allow_nan=False)
    if isinstance(value, dict) and "apiKey" in value:
        wanted = {"apiKey": "[hidden]", "password": "[hidden]", "max_tokens": 3, "tokenizer": "t"}
    if isinstance(value, bytes):
        assert len(got) == 200
        return
    assert got == wanted
    assert type(got) is type(wanted)


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(json_like)
def test_any_metadata_becomes_valid_json(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)


@given(st.lists(st.text(min_size=4, max_size=12, alphabet="abc"), min_size=1), st.data())
def test_no_secret_survives(secrets: list[str], data: st.DataObject) -> None:
    redact = Redactor({"adapters": [{"api_key": secret} for secret in secrets]})
    text = data.draw(st.lists(st.sampled_from([*secrets, " ", "xyz"])).map(" ".join))
    shown = redact(text)
    assert not any(secret in shown for secret in secrets)


def test_json_lines_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    handler = JsonLines(tmp_path / "e.jsonl")
    handler(Event("metric", "w", 0.0, name="loss", value=1.0))
    assert json.loads((tmp_path / "e.jsonl").read_text())["value"] == 1.0
    handler.close()


def test_an_event_is_a_value_with_the_fields_that_apply() -> None:
    event = Event("metric", "w", 0.5, name="loss", value=1.0, step=None)
    assert (event.name, event.value, event.step, event.duration_s) == ("loss", 1.0, None, None)
    assert repr(event) == "Event(kind='metric', path='w', time=0.5, name='loss', value=1.0)"
    assert event == pickle.loads(pickle.dumps(event)) == copy.deepcopy(event)
    assert {event: 1}[Event("metric", "w", 0.5, None, name="loss", value=1.0)] == 1
    assert list(event._asdict())[:5] == ["kind", "path", "time", "duration_s", "block"]
    with pytest.raises(AttributeError):
        event.kind = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="no field 'nmae'; did you mean 'name'"):
        Event("metric", "w", 0.5, nmae="loss")


def test_times_and_durations_agree() -> None:
    events: list[Event] = []
    began = time.time()
    naps = [stage(lambda: time.sleep(0.01)).with_(name=name) for name in ("one", "two")]
    run(workflow("w")[naps], handlers=[events.append])
    starts = [event for event in events if event.kind == "stage.start"]
    stops = [event for event in events if event.kind == "stage.stop"]
    for start, stop in zip(starts, stops, strict=True):
        assert stop.duration_s >= 0.01
        assert stop.time == pytest.approx(start.time + stop.duration_s, abs=1e-5)
    times = [event.time for event in events if event.kind.startswith("stage")]
    assert times == sorted(times)
    assert began - 0.01 <= times[0] <= times[-1] <= time.time() + 0.01


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    from rich.console import Console as RichConsole

    out = io.StringIO()
    rich = RichConsole(file=out, force_terminal=terminal, width=80, highlight=False, no_color=True)
    return Console(rich, slow_s=0.0), out


def test_the_console_writes_lines_where_there_is_no_terminal() -> None:
    handler, out = console(terminal=False)
    run(TRAIN, handlers=[handler])
    lines = out.getvalue().splitlines()
    assert lines[0] == "sft"
    assert lines.count("eval_loss 2.25 at step 3") == 2
    assert not any("grad_norm" in line for line in lines)
    assert lines[-2] == "epochs: 2 iterations  loss 1.0000  1,234 tokens/s"
    assert lines[-1].startswith("done in ")
    assert "\x1b" not in out.getvalue()


def test_the_console_says_what_failed_as_it_is() -> None:
    handler, out = console(terminal=False)
    with pytest.raises(StageError):
        run(workflow("w")[boom], handlers=[handler])
    assert "no [bold] luck" in out.getvalue()
    assert "failed after " in out.getvalue()


def test_the_console_draws_nested_bars_that_fit_80_columns() -> None:
    handler, _ = console(terminal=True)
    events: list[Event] = []
    run(TRAIN, handlers=[events.append])
    frames: list[str] = []
    for event in events:
        handler(event)
        if event.kind == "stage.start" and event.path.endswith("train"):
            frames.append(frame(handler))
    handler.close()
    last = frames[-1].splitlines()
    assert last[0].startswith("epochs ")
    assert last[1].startswith("  batches ")
    assert "3/3" in last[1]
    assert "left" in last[1]
    assert "loss 1.5000  1,234 tokens/s" in last[1]
    assert all(len(line.rstrip()) <= 80 for line in last)


def frame(handler: Console) -> str:
    from rich.console import Console as RichConsole

    shot = RichConsole(file=io.StringIO(), width=80, color_system=None)
    with shot.capture() as capture:
        shot.print(handler._view._progress.get_renderable())  # type: ignore[union-attr]
    return capture.get()


def test_the_console_leaves_the_terminal_as_it_was_after_a_failure() -> None:
    handler, out = console(terminal=True)
    with pytest.raises(StageError):
        run(workflow("w")[loop("l", over=[1])[boom]], handlers=[handler])
    text = out.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor must be shown again"


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3700, "1 h 01 min")],
)
def test_durations(seconds: float, wanted: str) -> None:
    assert duration(seconds) == wanted
