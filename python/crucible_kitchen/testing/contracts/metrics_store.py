"""The contract of `MetricsStore`."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from crucible_kitchen.ports import MetricsStore
from crucible_kitchen.types import MetricPoint

from .base import PortContract


@dataclass
class _RunContext:
    """As much of a run's context as a store looks at."""

    metadata: dict[str, Any] = field(default_factory=lambda: {"run_id": "run-1"})


class MetricsStoreContract(PortContract):
    """The `adapter` is an empty store."""

    port = MetricsStore

    def test_gives_back_what_was_recorded_in_order(self, adapter: MetricsStore) -> None:
        adapter.record("run-1", "loss", 2.5, step=1, metadata={"split": "train", "deep": [1, {}]})
        adapter.record("run-1", "accuracy", 1)
        adapter.flush("run-1")
        first, second = adapter.read("run-1")
        assert (first.run_id, first.name, first.value, first.step) == ("run-1", "loss", 2.5, 1)
        assert first.metadata == {"split": "train", "deep": [1, {}]}
        assert (second.name, second.value, second.step, second.metadata) == (
            "accuracy",
            1.0,
            None,
            {},
        )

    def test_keeps_runs_apart(self, adapter: MetricsStore) -> None:
        adapter.record("run-1", "loss", 1.0)
        adapter.record("run-2", "loss", 2.0)
        assert [point.value for point in adapter.read("run-2")] == [2.0]
        assert adapter.read("no-such-run") == []

    def test_rewinding_brings_back_what_was_lost(self, adapter: MetricsStore) -> None:
        points = [
            MetricPoint("run-1", "loss", value, step, 1.0, {})
            for step, value in enumerate((3.0, math.nan, 1.0))
        ]
        adapter.record("run-2", "loss", 9.0, step=0)
        for point in points[:2]:
            adapter.record("run-1", point.name, point.value, step=point.step)
        adapter.rewind("run-1", points)
        adapter.rewind("run-1", points)
        adapter.flush("run-1")
        got = [(point.name, repr(point.value), point.step) for point in adapter.read("run-1")]
        assert got == [("loss", "3.0", 0), ("loss", "nan", 1), ("loss", "1.0", 2)]
        assert [point.value for point in adapter.read("run-2")] == [9.0]

    def test_takes_a_context_for_a_run(self, adapter: MetricsStore) -> None:
        context = _RunContext()
        adapter.record(context, "loss", 0.5, step=100)
        adapter.flush(context)
        assert adapter.read(context) == adapter.read("run-1")
        assert [point.value for point in adapter.get_history(context, "loss")] == [0.5]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_keeps_numbers_that_json_lacks(self, adapter: MetricsStore, value: float) -> None:
        adapter.record("run-1", "loss", value, metadata={"also": "text"})
        adapter.record("run-1", "loss", 1.0)
        got = [point.value for point in adapter.read("run-1")]
        assert got == pytest.approx([value, 1.0], nan_ok=True)

    def test_history_is_by_step_and_of_one_metric(self, adapter: MetricsStore) -> None:
        for step in (3, 1, 2, 4):
            adapter.record("run-1", "loss", step / 10, step=step)
        adapter.record("run-1", "other", 9.0, step=2)

        def steps(**bounds: int) -> list[int | None]:
            return [point.step for point in adapter.get_history("run-1", "loss", **bounds)]

        assert steps() == [1, 2, 3, 4]
        assert steps(step_min=2, step_max=3) == [2, 3]
        assert steps(limit=2) == [3, 4]
        assert steps(step_max=3, limit=1) == [3]
        assert steps(limit=0) == []
        assert adapter.get_history("run-1", "no-such-metric") == []

    def test_equal_steps_keep_their_order(self, adapter: MetricsStore) -> None:
        for value in (3.0, 1.0, 2.0):
            adapter.record("run-1", "loss", value, step=7)
        assert [p.value for p in adapter.get_history("run-1", "loss")] == [3.0, 1.0, 2.0]

    @pytest.mark.parametrize("value", ["0.5", None, [1.0]])
    def test_refuses_what_is_no_number(self, adapter: MetricsStore, value: Any) -> None:
        with pytest.raises(TypeError, match="loss"):
            adapter.record("run-1", "loss", value)
        assert adapter.read("run-1") == []

    @pytest.mark.parametrize("run", ["", None, 7])
    def test_refuses_what_is_no_run(self, adapter: MetricsStore, run: Any) -> None:
        with pytest.raises(TypeError, match="run"):
            adapter.record(run, "loss", 1.0)

    def test_threads_lose_nothing(self, adapter: MetricsStore) -> None:
        def record(step: int) -> None:
            adapter.record("run-1", "loss", float(step), step=step)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(record, range(100)))
        history = adapter.get_history("run-1", "loss")
        assert [point.step for point in history] == list(range(100))
