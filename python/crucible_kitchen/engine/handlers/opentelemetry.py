"""`OpenTelemetry`: a run as a trace, and its metrics as gauges."""

from __future__ import annotations

from typing import Any, Final

from crucible_kitchen.engine.events import Event

from ._optional import library

_SCOPE: Final = "crucible_kitchen"
_NANO: Final = 1_000_000_000


class OpenTelemetry:
    """Turns the events of one run into spans: the run, its blocks, its stages, one in another.

    A loop's spans carry ``crucible.total``, all of them ``crucible.path``; a failed attempt is an
    event of the stage's span; a recorded metric is one of the span around its stage, and a gauge
    ``crucible.NAME`` with the attribute ``workflow``.

    Args:
        tracer_provider: of ``opentelemetry-api``; by default the one that the process has set.
        meter_provider: likewise.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        api = library("opentelemetry.trace", extra="telemetry")
        metrics = library("opentelemetry.metrics", extra="telemetry")
        self._api = api
        self._tracer = (tracer_provider or api.get_tracer_provider()).get_tracer(_SCOPE)
        self._meter = (meter_provider or metrics.get_meter_provider()).get_meter(_SCOPE)
        self._spans: dict[str, Any] = {}
        self._gauges: dict[str, Any] = {}
        self._workflow = ""

    def __call__(self, event: Event) -> None:
        what, _, happened = event.kind.partition(".")
        if happened == "start" and what != "iteration":
            self._start(event, what)
        elif happened in ("stop", "error"):
            self._stop(event)
        elif event.kind == "stage.retry":
            said = {"attempt": event.attempt or 0, "error": event.error or ""}
            self._spans[event.path].add_event("retry", said, _nanoseconds(event.time))
        elif event.kind == "metric":
            self._metric(event)

    def close(self) -> None:
        """End the spans that are still open, the innermost first."""
        while self._spans:
            self._spans.popitem()[1].end()

    def _start(self, event: Event, what: str) -> None:
        if what == "run":
            self._workflow = event.name or ""
        # Indices tell iterations apart in the path; a name with them would be one name a step.
        name = event.path.rpartition("/")[2].partition("[")[0]
        attributes: dict[str, Any] = {"crucible.kind": event.block or what}
        attributes["crucible.path"] = event.path
        if event.total is not None:
            attributes["crucible.total"] = event.total
        for key, value in (event.metadata or {}).items():
            if isinstance(value, (str, bool, int, float)):
                attributes[f"crucible.{key}"] = value
        parent = self._around(event.path)
        context = None if parent is None else self._api.set_span_in_context(parent)
        self._spans[event.path] = self._tracer.start_span(
            name, context, attributes=attributes, start_time=_nanoseconds(event.time)
        )

    def _stop(self, event: Event) -> None:
        span = self._spans.pop(event.path)
        if event.error is not None:
            status = self._api.StatusCode.ERROR
            span.set_status(self._api.Status(status, event.error))
        span.end(_nanoseconds(event.time))

    def _metric(self, event: Event) -> None:
        assert event.name is not None
        if event.name not in self._gauges:
            self._gauges[event.name] = self._meter.create_gauge(f"crucible.{event.name}")
        self._gauges[event.name].set(event.value, {"workflow": self._workflow})
        span = self._spans.get(event.path) or self._around(event.path)
        if span is not None:
            said = {"name": event.name, "value": event.value or 0.0}
            if event.step is not None:
                said["step"] = event.step
            span.add_event("metric", said, _nanoseconds(event.time))

    def _around(self, path: str) -> Any:
        """The innermost open span that `path` lies in."""
        while path:
            # `w/loop[2]/stage` lies in `w/loop[2]`, which is an iteration of `w/loop`.
            shorter = path.rpartition("[")[0] if path.endswith("]") else path.rpartition("/")[0]
            if shorter in self._spans:
                return self._spans[shorter]
            path = shorter
        return None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANO)
