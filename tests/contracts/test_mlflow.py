"""MLflow's file store keeps the contracts of both ports, and its own client sees the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.mlflow import MetricsStore, ModelRegistry
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import MetricsStoreContract, ModelRegistryContract

mlflow = pytest.importorskip("mlflow", reason="pip install 'crucible-kitchen[mlflow]'")
# MLflow advises a database for its servers; a folder is what needs no server.
pytestmark = pytest.mark.filterwarnings("ignore:The filesystem:FutureWarning")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return (tmp_path / "mlruns").as_uri()


class TestMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, folder: str) -> Iterator[MetricsStore]:
        store = MetricsStore(folder)
        yield store
        store.close()


class TestModelRegistry(ModelRegistryContract):
    @pytest.fixture
    def adapter(self, folder: str) -> ModelRegistry:
        return ModelRegistry(folder)


@pytest.mark.parametrize("kind", [MetricsStore, ModelRegistry])
def test_no_server_is_told_at_once(kind: type) -> None:
    began = time.monotonic()
    with pytest.raises(PortError, match=r"could not open the store: .*refused"):
        kind("http://cook:topsecret@127.0.0.1:9")
    assert time.monotonic() - began < 5


def _runs(folder: str) -> list[Any]:
    client = mlflow.MlflowClient(folder)
    return list(client.search_runs([client.get_experiment_by_name("kitchen").experiment_id]))


def test_mlflow_sees_one_ended_run_with_its_metrics(folder: str) -> None:
    store = MetricsStore(folder, experiment="kitchen")
    for step in range(3):
        store.record("sft-1", "loss", 1.0 / (step + 1), step=step)
    store.close()
    (run,) = _runs(folder)
    assert (run.info.run_name, run.info.status) == ("sft-1", "FINISHED")
    assert run.data.metrics == {"loss": 1.0 / 3}
    history = mlflow.MlflowClient(folder).get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]


def test_another_store_goes_on_with_the_same_run(folder: str) -> None:
    for value in (3.0, 2.0):
        store = MetricsStore(folder, experiment="kitchen")
        store.record("it's one", "loss", value, step=int(value))
        store.close()
    assert len(_runs(folder)) == 1
    assert [point.value for point in store.get_history("it's one", "loss")] == [2.0, 3.0]


def test_what_mlflow_refuses_is_a_port_error(folder: str) -> None:
    store = MetricsStore(folder)
    with pytest.raises(PortError, match="could not record a metric!"):
        store.record("r", "a metric!", 1.0)
    with pytest.raises(TypeError, match="plain JSON"):
        store.record("r", "loss", 1.0, metadata={"x": object()})


def test_a_model_that_mlflow_made_itself_is_listed(folder: str) -> None:
    client = mlflow.MlflowClient(folder)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "file:///weights")
    registry = ModelRegistry(folder)
    assert [model.id for model in registry.list()] == ["theirs:1"]
    assert registry.get("theirs:1").artifact_uri == "file:///weights"


def test_of_two_writers_the_later_one_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ModelRegistry(folder), ModelRegistry(folder)
    checks = iter([lambda *_: first.register("m", "1", "file:///a")])
    plain = ModelRegistry._refuse_taken

    def come_in_between(self: ModelRegistry, wanted: str, known: list[Any]) -> None:
        plain(self, wanted, known)
        if self is second:
            next(checks, lambda *_: None)()

    monkeypatch.setattr(ModelRegistry, "_refuse_taken", come_in_between)
    with pytest.raises(PortError, match="m:1 is registered already, with file:///a"):
        second.register("m", "1", "file:///b")
    assert [model.artifact_uri for model in first.list()] == ["file:///a"]


@pytest.mark.parametrize("moment", ["create_experiment", "create_run"])
def test_two_writers_that_begin_at_once_share_a_run(
    folder: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first, second = (MetricsStore(folder, experiment="kitchen") for _ in range(2))
    plain = getattr(second._client, moment)

    def come_in_between(*args: Any, **kwargs: Any) -> Any:
        first.record("r", "loss", 1.0, step=1)
        return plain(*args, **kwargs)

    monkeypatch.setattr(second._client, moment, come_in_between)
    second.record("r", "loss", 2.0, step=2)
    first.record("r", "loss", 3.0, step=3)
    assert len(_runs(folder)) == 1
    for store in (first, second, MetricsStore(folder, experiment="kitchen")):
        assert [point.value for point in store.get_history("r", "loss")] == [1.0, 2.0, 3.0]
