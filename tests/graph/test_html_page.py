"""The page of a workflow: it stands alone, says everything, and knows what a run took."""

from __future__ import annotations

import contextlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.engine import Event, run
from crucible_kitchen.engine.handlers.jsonl import JsonLines
from crucible_kitchen.errors import CrucibleError, StageError
from crucible_kitchen.graph import (
    async_loop,
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
from crucible_kitchen.graph.page import Times, duration, read_events
from crucible_kitchen.graph.page.timeline import timeline
from crucible_kitchen.ports import SamplingClient

VOID = {"meta", "i", "br", "rect"}


@stage(writes="x", retry=3)
def make() -> int:
    """Make <one> & more."""
    return 1


@stage(writes="y")
def use(x: int = 0, item: int = 0) -> int:
    return x


@stage
def fail(y: int = 0) -> None:
    raise ValueError("<no> & never")


@stage
def skip() -> None: ...


def is_odd(x: int = 1) -> bool:
    return x % 2 == 1


WHOLE = (
    workflow("whole")[
        make,
        loop("epochs", over=range(2))[
            stream_loop("batches", over=[1, 2, 3], prefetch=2)[use.bind(item="batches.item")],
            when(is_odd)[use.with_(name="odd")].otherwise[skip],
        ],
        parallel("both")[use.with_(name="one").bind(writes="a"), skip.with_(name="two")],
        switch(3)[case(1, 2)[skip], case(3)[skip.with_(name="third")]].otherwise[
            skip.with_(name="other")
        ],
        fan_out("sweep", over=[1, 2], collect="y")[use],
        scope("inside")[make],
    ]
    .on_error[skip.with_(name="report")]
    .finally_[skip]
)


class Page(HTMLParser):
    """Collects the paths drawn, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.drawn: dict[str, str] = {}
        self.inside: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        assert not {"src", "href"} & set(given), f"{tag} points outside"
        path = given.get("data-path", "")
        if path:
            self.drawn[path] = given["class"]
            self.inside[path] = [name for _, name in self.open if name]
        if tag not in {"meta", "rect"}:
            self.open.append((tag, path))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag


def events_of(value: Any, **config: Any) -> list[Event]:
    events: list[Event] = []
    with contextlib.suppress(StageError):
        run(value, config, handlers=[events.append])
    return events


def test_it_stands_alone_and_draws_everything_as_it_is_nested() -> None:
    text = WHOLE.html()
    assert not re.search(r"https?:|@import|url\(|<script|<link", text)
    page = Page(text)
    paths = {path for path in WHOLE.flat() if path != "whole"}
    # What is in .otherwise of a `when` stands beside its body, without a box of its own.
    assert set(page.drawn) == paths - {"whole/epochs/is_odd/otherwise"}
    assert page.inside["whole/epochs/batches/use"] == ["whole/epochs", "whole/epochs/batches"]
    assert page.drawn["whole/epochs/batches"].split() == ["box", "stream_loop", "again"]
    assert page.drawn["whole/make"] == "stage plain"
    assert "each of [1, 2, 3], 2 read ahead" in text
    assert "Make &lt;one&gt; &amp; more." in text
    assert "3 attempts" in text
    assert str(Path(__file__).parent) not in text


def test_an_order_that_no_key_tells_is_said() -> None:
    value = workflow("w")[make, skip.with_(after="make"), use]
    assert '<span class="port">after make</span>' in value.html()
    assert "after use" not in value.html()


def test_an_async_loop_says_what_it_goes_through() -> None:
    def rollout(x: int = 0) -> int:
        return x

    rl = async_loop("rl", producer=rollout, stop_when=is_odd, max_staleness=2)
    value = workflow("w")[rl[use.bind(item="rl.item", writes="x")]]
    text = value.html(events_of(value))
    assert "each that rollout makes meanwhile; until is_odd" in text
    assert "from a state at most 2 iterations old" in text
    assert Page(text).drawn["w/rl"].split() == ["box", "async_loop", "again"]


def test_a_finished_run_is_told_stage_by_stage() -> None:
    events = events_of(WHOLE)
    text = WHOLE.html(events)
    page = Page(text)
    assert "finished" in text
    assert page.drawn["whole/epochs/batches/use"] == "stage done"
    assert page.drawn["whole/epochs/is_odd/otherwise/skip"] == "stage unrun"
    assert page.drawn["whole/on_error/report"] == "stage unrun"
    assert "6 iterations" in text
    assert "2 copies" in text
    assert re.search(r"6 \N{MULTIPLICATION SIGN} \d", text)
    times = Times.of(read_events(events), "whole")
    assert times.get("whole/epochs/batches/use").count == 6
    assert times.get("whole/epochs").count == 2
    took = sum(e.duration_s or 0 for e in events if e.path.endswith("/use") and "batches" in e.path)
    assert times.get("whole/epochs/batches/use").seconds == pytest.approx(took)


def test_a_failed_run_says_where_and_why() -> None:
    value = workflow("w")[make, fail, use].finally_[skip]
    text = value.html(events_of(value))
    page = Page(text)
    assert page.drawn["w/fail"] == "stage failed"
    assert page.drawn["w/use"] == "stage unrun"
    assert page.drawn["w/finally/skip"] == "stage done"
    assert "ValueError: &lt;no&gt; &amp; never" in text
    assert "<no>" not in text


def test_a_run_that_is_not_over_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    value = workflow("w")[make, loop("l", over=[1, 2])[use]]
    listener = JsonLines(tmp_path / "events.jsonl")
    for event in events_of(value)[:5]:
        listener(event)
    listener.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind":"stage.sta')  # torn by a crash, or not yet written
    page = Page(value.html(run=tmp_path))
    assert page.drawn["w/make"] == "stage done"
    assert page.drawn["w/l/use"] == "stage unrun"
    started = events_of(value)[:6]
    assert started[-1].kind == "stage.start"
    assert Page(value.html(started)).drawn["w/l/use"] == "stage running"
    assert "unfinished" in value.html(run=tmp_path)


def test_a_retry_and_a_result_are_read(tmp_path: Path) -> None:
    tries: list[int] = []

    @stage(retry=2)
    def flaky() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("again")

    value = workflow("w")[flaky]
    result = run(value, run_dir=tmp_path / "r", handlers=["jsonl"])
    text = value.html(result)
    assert "1 retried" in text
    assert Page(text).drawn["w/flaky"] == "stage done"


def test_what_is_no_run_of_it_is_refused(tmp_path: Path) -> None:
    value = workflow("w")[skip]
    with pytest.raises(CrucibleError, match="run must be one of workflow 'w', got one of 'other'"):
        value.html(events_of(workflow("other")[skip]))
    with pytest.raises(CrucibleError, match=r"events\.jsonl cannot be read"):
        value.html(tmp_path)
    with pytest.raises(CrucibleError, match="kept no folder"):
        value.html(run(value))
    with pytest.raises(TypeError, match="must be a run's folder, a result, or events, got int"):
        value.html(3)
    (tmp_path / "events.jsonl").write_text("{\n")
    with pytest.raises(CrucibleError, match="line 1 is damaged"):
        value.html(tmp_path)


def test_marks_of_the_timeline_do_not_touch() -> None:
    times = Times(seconds=10.0)
    spans = times.at("w/a").spans
    spans += [(i * 0.001, i * 0.001 + 0.001) for i in range(5000)] + [(9.0, 10.0), (8.0, 8.0)]
    times.at("w/l/b").spans.append((0.0, 10.0))
    times.at("w/m/b").spans.append((2.0, 3.0))
    rows = timeline(times, ["w/a", "w/l/b", "w/never", "w/m/b"])
    assert [row.name for row in rows] == ["a", "l/b", "m/b"]
    assert rows[0].marks == ((0, 300), (480, 1), (540, 60))
    assert rows[1].marks == ((0, 600),)
    assert rows[2].marks == ((120, 60),)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (4e-5, "40 µs"),
        (0.83, "830 ms"),
        (12.34, "12.3 s"),
        (171, "2 min 51 s"),
        (11100, "3 h 05 min"),
    ],
)
def test_durations_are_in_units_people_read(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_makes_items_beside_the_body_is_seen(tmp_path: Path) -> None:
    def sample(*, sampling_client: SamplingClient) -> int:
        return 1

    value = workflow("w")[
        async_loop("l", producer=sample, stop_when=lambda y=0: y == 1)[
            use.bind(x="l.item", item="l.item")
        ]
    ]
    adapters = {"sampling_client": noop.SamplingClient}
    run(value, adapters=adapters, run_dir=tmp_path, handlers=["jsonl"])
    page = value.html(run=tmp_path)
    assert "uses sampling_client" in page
    assert re.findall(r'<span title="([\w/]+)">', page) == ["w/l/producer", "w/l/use"]
