"""Context: immutable, readable by attribute and item, and metrics that reach the store."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from crucible_kitchen.context import (
    Context,
    MetricLog,
    MetricRecord,
    Metrics,
    MissingKeyError,
    View,
)
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.ports import MetricsStore


class Store(MetricsStore):
    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.rows: list[tuple[Any, ...]] = []

    def record(
        self, run: Any, name: str, value: float, *, step: Any = None, metadata: Any = None
    ) -> None:
        self.rows.append((run, name, value, step))

    def flush(self, run: Any) -> None: ...

    def read(self, run: Any) -> list[Any]:
        return []

    def get_history(self, run: Any, name: str, **bounds: Any) -> list[Any]:
        return []


def test_put_state_returns_another_context() -> None:
    before = Context({"epochs": 3})
    after = before.put_state("loss", 0.5).merge_state({"step": 1, "epoch": 2})
    assert (after.state.loss, after.state["step"], after.get_state("epoch")) == (0.5, 1, 2)
    assert len(before.state) == 0
    assert after.config.epochs == after.config["epochs"] == after.get_config("epochs") == 3


def test_defaults_of_the_getters() -> None:
    ctx = Context()
    assert ctx.get_config("a", 1) == ctx.get_state("a", 1) == ctx.get_metadata("a", 1) == 1
    assert ctx.get_adapter("metrics_store") is None
    assert ctx.metadata.run_id.startswith("run_")
    assert ctx.put_metadata("note", "x").metadata.note == "x"


@pytest.mark.parametrize("change", ["state", "config", "anything"])
def test_nothing_can_be_set(change: str) -> None:
    ctx = Context({"a": 1})
    with pytest.raises(AttributeError, match="immutable"):
        setattr(ctx, change, 1)
    with pytest.raises(AttributeError, match="read-only"):
        ctx.config.a = 2
    with pytest.raises(AttributeError, match="immutable"):
        del ctx._state
    with pytest.raises(TypeError):
        ctx.config["a"] = 2  # type: ignore[index]


@pytest.mark.parametrize("kind", [KeyError, AttributeError, CrucibleError])
def test_a_missing_key_names_the_nearest(kind: type[Exception]) -> None:
    ctx = Context({"learning_rate": 1e-4})
    with pytest.raises(kind, match="config: no key 'lerning_rate'; did you mean 'learning_rate'"):
        _ = ctx.config.lerning_rate
    with pytest.raises(kind, match="state: no key 'x'; it is empty"):
        _ = ctx.state["x"]
    assert not hasattr(ctx.state, "x")


def test_dotted_keys_read_by_attribute() -> None:
    state = Context(state={"epochs.item": 7, "epochs.index": 2}).state
    assert (state.epochs.item, state["epochs.index"]) == (7, 2)


def test_a_view_is_a_mapping_that_can_be_copied_and_pickled() -> None:
    view = View({"a": 1, "b": 2}, "state")
    assert dict(view.items()) == dict(view) == {"a": 1, "b": 2}
    assert copy.copy(view)["a"] == pickle.loads(pickle.dumps(view)).a == 1


def test_reprs_show_no_values() -> None:
    ctx = Context({"api_key": "s3cr3t-value"}, state={"x": "s3cr3t-value"})
    assert "s3cr3t" not in f"{ctx!r} {ctx.config!r} {ctx.state!r} {ctx.adapters!r}"


def test_config_may_be_a_pydantic_model_and_nothing_else() -> None:
    class Config(BaseModel):
        epochs: int = 2

    assert Context(Config()).config.epochs == 2
    with pytest.raises(TypeError, match="config must be a mapping or a pydantic model, got int"):
        Context(3)
    with pytest.raises(TypeError, match="keys must be str, got 1"):
        Context({1: 2})
    with pytest.raises(TypeError, match="keys must be str, got 1"):
        Context().merge_state({1: 2})  # type: ignore[dict-item]


def test_metrics_are_chronological_and_reach_the_store() -> None:
    store = Store()
    ctx = Context(adapters={"metrics_store": store}).put_state("step", 4)
    ctx = ctx.record_metric("loss", 2.0).record_metric("loss", 1.0, step=5, metadata={"a": 1})
    assert [(r.value, r.step) for r in ctx.metrics.history("loss")] == [(2.0, 4), (1.0, 5)]
    assert ctx.metrics.latest("loss") == 1.0
    assert ctx.metrics.to_rows()[1]["metadata"] == {"a": 1}
    run_id = ctx.metadata.run_id
    assert store.rows == [(run_id, "loss", 2.0, 4), (run_id, "loss", 1.0, 5)]


def test_an_adapter_given_as_a_class_is_made_once_for_all_contexts() -> None:
    made = Store.made
    ctx = Context(adapters={"metrics_store": Store})
    child = ctx.put_state("a", 1).record_metric("loss", 1.0)
    assert child.ports.metrics_store is ctx.ports.metrics_store is ctx.get_adapter("metrics_store")
    assert Store.made == made + 1


def test_an_unknown_metric_names_the_nearest() -> None:
    ctx = Context().record_metric("eval_loss", 1.0)
    with pytest.raises(MissingKeyError, match="did you mean 'eval_loss'"):
        ctx.metrics.latest("evalloss")


def test_metrics_recorder_tells_its_listener() -> None:
    heard: list[MetricRecord] = []
    metrics = Metrics(heard.append)
    metrics.record("loss", 1.5, step=2)
    assert [(r.name, r.value, r.step) for r in heard] == [("loss", 1.5, 2)]
    assert list(metrics.log) == heard


@given(st.lists(st.integers(0, 4), max_size=40))
def test_logs_that_share_a_list_never_see_each_other(parents: list[int]) -> None:
    """Appending to any earlier log, in any order, equals appending to a copy of its list."""
    logs = [MetricLog()]
    want: list[list[float]] = [[]]
    for number, back in enumerate(parents):
        parent = max(0, len(logs) - 1 - back)
        logs.append(logs[parent].append(MetricRecord("m", float(number), None, 0.0, {})))
        want.append([*want[parent], float(number)])
    assert [[r.value for r in log] for log in logs] == want
