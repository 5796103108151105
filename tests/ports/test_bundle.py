"""`resolve` and `Ports`: what a user may pass, and every mistake at once."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_kitchen import ports
from crucible_kitchen.adapters import noop
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import PORTS, Ports, find_problems, resolve


class Recorder(noop.BlobStore):
    """Remembers the order in which its instances are closed."""

    closed: list[str] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, label: str = "blob") -> None:
        super().__init__()
        self.label = label

    def close(self) -> None:
        self.closed.append(self.label)


class Recorded(noop.MetricsStore):
    def close(self) -> None:
        Recorder.closed.append("metrics")


class Half(ports.BlobStore):
    def read(self, path: str) -> bytes:
        return b""


class Stranger:
    """Has every method of a port, and does not say that it is one."""

    def evaluate(self, *arguments: Any) -> dict[str, float]:
        return {}


class Broken(noop.MetricsStore):
    def __init__(self) -> None:
        raise OSError("no such device")


def test_an_adapter_is_an_instance_a_class_or_a_class_with_options() -> None:
    blob_store = noop.BlobStore()
    made = resolve(
        {
            "blob_store": blob_store,
            "training_client": noop.TrainingClient,
            "dataset_store": (noop.DatasetStore, {"size": 7}),
        }
    )
    assert made.blob_store is blob_store
    assert isinstance(made.training_client, noop.TrainingClient)
    assert len(made.dataset_store.to_list(made.dataset_store.load_dataset("x"))) == 7
    assert list(made) == ["blob_store", "training_client", "dataset_store"]
    assert "evaluator" not in made
    assert made.get("evaluator") is None
    assert resolve(made) is made


def test_every_port_is_an_attribute_of_the_bundle() -> None:
    made = resolve({name: getattr(noop, port.__name__) for name, port in PORTS.items()})
    assert len(made) == len(PORTS) == 9
    for name, port in PORTS.items():
        assert isinstance(getattr(made, name), port)
        assert port.name == name
    made.close()


@pytest.mark.parametrize("name", list(PORTS))
def test_a_missing_adapter_says_how_to_pass_it(name: str) -> None:
    with pytest.raises(PortError, match=rf"adapters=\{{'{name}': ...\}}, a {PORTS[name].__name__}"):
        getattr(Ports(), name)


def test_a_bundle_does_not_change() -> None:
    with pytest.raises(AttributeError, match="blob_store"):
        Ports().blob_store = noop.BlobStore()  # type: ignore[misc]
    with pytest.raises(PortError, match="did you mean 'blob_store'"):
        Ports()["blob_stor"]


def test_every_mistake_is_reported_at_once() -> None:
    adapters = {
        "trainer_client": noop.TrainingClient,
        "training_client": None,
        "sampling_client": "noop",
        "blob_store": Half,
        "evaluator": Stranger(),
        "completer": noop.Evaluator,
        "dataset_store": (noop.DatasetStore, {"sizes": 3}),
        "metrics_store": (noop.MetricsStore,),
        "model_registry": noop.ModelRegistry,
    }
    found = {problem.path: str(problem) for problem in find_problems(adapters)}
    assert set(found) == set(adapters) - {"model_registry"}
    assert "did you mean 'training_client'" in found["trainer_client"]
    assert "got None" in found["training_client"]
    assert "got 'noop'" in found["sampling_client"]
    assert "Half lacks delete, exists, list, stream, write" in found["blob_store"]
    assert "class Stranger(ports.Evaluator)" in found["evaluator"]
    assert "lacks complete, get_model" in found["completer"]
    assert "did you mean 'size'" in found["dataset_store"]
    assert "(class, {options})" in found["metrics_store"]
    with pytest.raises(PortError) as caught:
        resolve(adapters)
    assert str(caught.value).startswith("ports: 8 problem(s)")
    assert all(problem in str(caught.value) for problem in found.values())


def test_adapters_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(PortError, match="got list"):
        resolve([noop.BlobStore()])  # type: ignore[arg-type]


def test_an_adapter_that_cannot_be_made_is_a_port_error_and_the_others_are_closed() -> None:
    Recorder.closed.clear()
    mine = Recorder("mine")
    adapters = {"blob_store": Recorder, "metrics_store": Broken}
    with pytest.raises(PortError, match=r"metrics_store: could not make .*Broken: no such device"):
        resolve(adapters)
    with pytest.raises(PortError):
        resolve({**adapters, "blob_store": mine})
    assert Recorder.closed == ["blob"], "an instance belongs to the caller"
    with pytest.raises(ConfigError, match="size"):
        resolve({"dataset_store": (noop.DatasetStore, {"size": -1})})


def test_closing_goes_backwards_and_on_after_a_failure() -> None:
    class Stuck(noop.Completer):
        def close(self) -> None:
            raise PortError("stuck")

    Recorder.closed.clear()
    made = resolve({"blob_store": Recorder, "completer": Stuck, "metrics_store": Recorded})
    with pytest.raises(PortError, match="completer: stuck"):
        made.close()
    assert Recorder.closed == ["metrics", "blob"]
