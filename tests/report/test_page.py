"""`report.html`: it stands alone, shows what happened, and cannot be broken by what it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen import report
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import CrucibleError, StageError
from crucible_kitchen.report.page import duration, time_by_stage

ADAPTERS = {"training_client": "noop", "dataset_store": "noop", "completer": "noop"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    config = {"model": "none", "dataset": "sums", "max_steps": 4, "eval_every": 2}
    ck.run("sft", config, ADAPTERS, run_dir=folder, handlers=())
    return folder


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all that were opened are closed."""

    VOID = ("meta", "br", "line", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself(run_dir) -> None:
    text = (run_dir / "report.html").read_text()
    page = Tags(text)
    assert not page.open
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.found}
    assert not [a for _, a in page.found if {"src", "href"} & set(a)]
    assert not re.findall(r"https?://|url\(|@import", text)


def test_the_page_shows_what_happened(run_dir) -> None:
    text = (run_dir / "report.html").read_text()
    for shown in (
        "held-out loss",
        "optimizer steps",
        "Learning rate",
        "training, step 4:",
        "held-out, step 2:",
        "forward_backward",
        "4 iterations",
        "should_evaluate",
        "own answer",
        "max_steps",
        "prefers-color-scheme: dark",
    ):
        assert shown in text, shown


def test_loops_are_nested_boxes(run_dir) -> None:
    text = (run_dir / "report.html").read_text()
    flow = text[text.index("<h2>Workflow") : text.index("<h2>Held-out")]
    names = re.findall(r'<span class="name mono">(\w+)<|<b class="mono">(\w+)<', flow)
    order = [a or b for a, b in names]
    assert order.index("epochs") < order.index("batches") < order.index("micro")
    assert order.index("micro") + 1 == order.index("forward_backward")
    assert flow.count("<div") == flow.count("</div>")


def test_text_from_data_stays_text(run_dir) -> None:
    evil = "<script>alert('x')</script>"
    samples = json.loads((run_dir / "samples.json").read_text())
    samples[0]["after"] = evil
    samples[0]["messages"][0]["content"] = f"{{{{ 7 * 7 }}}} {evil}"
    (run_dir / "samples.json").write_text(json.dumps(samples))
    text = report.write(run_dir).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text


def test_a_failed_run_has_a_page_that_says_why(tmp_path) -> None:
    class Broken(noop.TrainingClient):
        def optim_step(self, session, params):
            raise ValueError("the stove <is> cold")

    with pytest.raises(StageError):
        ck.run(
            "sft",
            {"model": "none", "dataset": "sums"},
            {**ADAPTERS, "training_client": Broken()},
            run_dir=tmp_path / "run",
            handlers=(),
        )
    text = (tmp_path / "run" / "report.html").read_text()
    assert "failed" in text
    assert "the stove &lt;is&gt; cold" in text


def test_a_run_that_was_killed_can_be_reported(run_dir) -> None:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    (run_dir / "events.jsonl").write_text("\n".join(lines[:40]) + "\n" + lines[40][:10])
    assert "unfinished" in report.write(run_dir).read_text()
    assert report.read_run(run_dir).status == "unfinished"


def test_a_damaged_line_is_named(run_dir) -> None:
    with (run_dir / "events.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(CrucibleError, match=r"events\.jsonl, line \d+ is damaged"):
        report.write(run_dir)


def test_a_run_without_a_loss_has_no_picture(tmp_path) -> None:
    @ck.stage
    def nothing() -> None: ...

    ck.run(ck.workflow("w")[nothing], run_dir=tmp_path / "run", handlers=())
    with pytest.raises(CrucibleError, match="must hold a run with a loss, got none recorded"):
        report.picture(report.read_run(tmp_path / "run"))


def test_a_folder_without_a_run_is_refused(tmp_path) -> None:
    with pytest.raises(CrucibleError, match=r"must be a run's folder, with config\.json"):
        report.write(tmp_path)


def test_secrets_do_not_reach_the_folder(tmp_path) -> None:
    @ck.stage
    def nothing(model: str) -> None:
        return None

    config = {"model": "m", "api_key": "sk-very-secret", "nested": {"password": "hunter2hunter2"}}
    ck.run(ck.workflow("w")[nothing], config, run_dir=tmp_path / "run", handlers=())
    for file in (tmp_path / "run").iterdir():
        assert "sk-very-secret" not in file.read_text()
        assert "hunter2hunter2" not in file.read_text()


def test_time_adds_up_by_stage(run_dir) -> None:
    spent = {one.name: one for one in time_by_stage(report.read_run(run_dir))}
    assert spent["optim_step"].count == 4
    assert max(one.share for one in spent.values()) == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12 ms"), (12.34, "12.3 s"), (171, "2 min 51 s"), (11_100, "3 h 05 min")],
)
def test_durations_are_in_units_people_read(seconds, text) -> None:
    assert duration(seconds) == text
