"""Those who listen to every run of a process."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from crucible_kitchen.context import Metrics
from crucible_kitchen.engine import Event, attach_telemetry, run, telemetry
from crucible_kitchen.errors import ConfigError, StageError
from crucible_kitchen.graph import Retry, loop, parallel, stage, workflow


@stage
def train(i: int, *, metrics: Metrics) -> None:
    metrics.record("loss", 3.0 - i, step=i)


@stage
def boom() -> None:
    raise ValueError("no luck")


STEPS = loop("steps", over=range(3))[train.bind(i="steps.item")]
WORKFLOW = workflow("w")[STEPS]


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    yield
    assert telemetry.attached() == []


def test_a_function_hears_of_every_run_until_it_is_detached() -> None:
    heard: list[Event] = []
    with attach_telemetry(heard.append) as attachment:
        run(WORKFLOW)
        once = len(heard)
        run(WORKFLOW)
        assert len(heard) == 2 * once > 0
        assert heard[0].kind == "run.start"
    run(WORKFLOW)
    assert len(heard) == 2 * once
    attachment.detach()


def test_filters_hand_on_what_fits() -> None:
    metrics: list[Event] = []
    second: list[Event] = []
    with (
        attach_telemetry(metrics.append, kinds="metric"),
        attach_telemetry(second.append, kinds=["stage.*"], paths="w/steps[[]1]/*"),
    ):
        run(WORKFLOW)
    assert [event.value for event in metrics] == [3.0, 2.0, 1.0]
    assert [event.kind for event in second] == ["stage.start", "stage.stop"]
    assert {event.path for event in second} == {"w/steps[1]/train"}


def test_one_that_is_detached_while_a_run_goes_on_hears_no_more() -> None:
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        if len(heard) == 3:
            attachment.detach()

    attachment = attach_telemetry(hear)
    run(WORKFLOW)
    assert len(heard) == 3


def test_one_that_fails_is_told_of_and_hears_of_the_next_run() -> None:
    heard: list[str] = []

    def hear(event: Event) -> None:
        heard.append(event.kind)
        raise OSError("disk full")

    with attach_telemetry(hear):
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match=r"handler .*hear failed .* disk full"):
                run(WORKFLOW)
    assert heard == ["run.start", "run.start"]


def test_runs_at_the_same_time_call_it_one_at_a_time() -> None:
    inside = threading.Lock()
    heard: list[Event] = []

    def hear(event: Event) -> None:
        assert inside.acquire(blocking=False), "two calls at once"
        heard.append(event)
        inside.release()

    with attach_telemetry(hear):
        threads = [threading.Thread(target=run, args=(WORKFLOW,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(event.kind == "run.stop" for event in heard) == 4


def test_jsonl_holds_all_runs_and_is_closed_by_detach(tmp_path: Any) -> None:
    path = tmp_path / "all.jsonl"
    attachment = attach_telemetry("jsonl", path=path, kinds="run.*")
    run(WORKFLOW)
    run(WORKFLOW)
    attachment.detach()
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["run.start", "run.stop"] * 2


def test_console_is_new_for_each_run(capsys: pytest.CaptureFixture[str]) -> None:
    with attach_telemetry("console"):
        run(WORKFLOW)
        run(WORKFLOW)
    said = "".join(capsys.readouterr())
    assert said.count("done in") == 2


@pytest.mark.parametrize(
    ("handler", "options", "said"),
    [
        ("consle", {}, "no handler 'consle'; did you mean 'console'"),
        ("jsonl", {}, "jsonl must have a path"),
        ("jsonl", {"pth": "x"}, "jsonl has no option 'pth'; did you mean 'path'"),
        ("console", {"path": "x"}, "console has no option 'path'; it takes none"),
        ("jsonl", {"path": "no/such/folder/x"}, "cannot be written"),
        (print, {"path": "x"}, "a function takes no options, got path"),
        (print, {"kinds": "stage.stopp"}, "got 'stage.stopp'; did you mean 'stage.stop'"),
        (print, {"paths": [3]}, "paths must be texts"),
        (3, {}, "must be a name or a callable, got 3"),
    ],
)
def test_what_cannot_be_attached_is_said(handler: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        attach_telemetry(handler, **options)
    assert said in str(caught.value)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'crucible-kitchen\[telemetry\]'"):
        attach_telemetry("opentelemetry")


def test_opentelemetry_gets_nested_spans_and_gauges() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install 'crucible-kitchen[telemetry]'")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import StatusCode

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    failures = iter([ValueError("first"), None, None])

    @stage(retry=Retry(2, backoff=0.0, on=ValueError))
    def flaky() -> None:
        error = next(failures)
        if error is not None:
            raise error

    both = parallel("both")[flaky, train.with_(name="other").bind(i="seed")]
    failing = workflow("w")[STEPS, both, boom].finally_[flaky.with_(name="last")]
    listening = attach_telemetry("opentelemetry", tracer_provider=tracers, meter_provider=meters)
    with listening, pytest.raises(StageError):
        run(failing, {"seed": 7})
    spans = exporter.get_finished_spans()
    name = {span.context.span_id: span.name for span in spans}
    inside = {(span.name, name[span.parent.span_id]) for span in spans if span.parent is not None}
    assert inside == {
        ("steps", "w"),
        ("train", "steps"),
        ("both", "w"),
        ("flaky", "both"),
        ("other", "both"),
        ("boom", "w"),
        ("finally", "w"),
        ("last", "finally"),
    }
    by_name = {span.name: span for span in spans}
    assert by_name["boom"].status.status_code is StatusCode.ERROR
    assert by_name["w"].status.status_code is StatusCode.ERROR
    assert "no luck" in by_name["w"].status.description
    assert by_name["steps"].attributes["crucible.total"] == 3
    assert [e.name for e in by_name["flaky"].events] == ["retry"]
    paths = [s.attributes["crucible.path"] for s in spans if s.name == "train"]
    assert paths == [f"w/steps[{i}]/train" for i in range(3)]
    [scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
    [loss] = scope.metrics
    [point] = loss.data.data_points
    assert (loss.name, point.value, dict(point.attributes)) == (
        "crucible.loss",
        -4.0,
        {"workflow": "w"},
    )
    tracers.shutdown()
    meters.shutdown()


def test_prometheus_counts_over_runs_serves_and_writes(tmp_path: Any) -> None:
    client = pytest.importorskip(
        "prometheus_client", reason="pip install 'crucible-kitchen[telemetry]'"
    )
    registry = client.CollectorRegistry()
    path = tmp_path / "crucible.prom"
    attachment = attach_telemetry("prometheus", registry=registry, path=path, port=0)
    run(WORKFLOW)
    with pytest.raises(StageError):
        run(workflow("w")[STEPS, boom])
    values = {(s.name, *s.labels.values()): s.value for m in registry.collect() for s in m.samples}
    assert values["crucible_runs_total", "w", "ok"] == 1
    assert values["crucible_runs_total", "w", "error"] == 1
    assert values["crucible_stages_total", "w", "w/steps/train", "ok"] == 6
    assert values["crucible_stages_total", "w", "w/boom", "error"] == 1
    assert values["crucible_stage_seconds_count", "w", "w/steps/train"] == 6
    assert values["crucible_metric", "w", "loss"] == 1.0
    assert 'crucible_runs_total{status="error",workflow="w"} 1.0' in path.read_text()
    attachment.detach()
    assert list(registry.collect()) == []


def test_prometheus_serves_what_it_counts_on_the_loopback() -> None:
    client = pytest.importorskip(
        "prometheus_client", reason="pip install 'crucible-kitchen[telemetry]'"
    )
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    registry = client.CollectorRegistry()
    with attach_telemetry("prometheus", registry=registry, port=port):
        run(WORKFLOW)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            page = answer.read().decode()
        assert 'crucible_metric{name="loss",workflow="w"} 1.0' in page
        with pytest.raises(ConfigError, match="prometheus cannot be attached"):
            attach_telemetry("prometheus", registry=client.CollectorRegistry(), port=port)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
