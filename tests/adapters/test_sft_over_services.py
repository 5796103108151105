"""The same training on files and on services: lines of `adapters` change, and not the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import files
from crucible_kitchen.adapters.compose import retrying
from crucible_kitchen.adapters.fsspec import BlobStore
from crucible_kitchen.adapters.huggingface import DatasetStore
from crucible_kitchen.errors import PortError, StageError
from crucible_kitchen.graph import Retry
from crucible_kitchen.ports import resolve

pytest.importorskip("datasets", reason="pip install 'crucible-kitchen[huggingface]'")

Train = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the test stands, with a data set ``data`` of one file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"Count to {n}.", "completion": "one two three"} for n in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "train.jsonl").write_text(text)
    return tmp_path


@pytest.fixture
def train(folder: Path, tiny_folder: str) -> Train:
    """Two steps of the recipe; it needs a folder for the run, and its adapters."""
    config = {
        "model": tiny_folder,
        "dataset": "data",
        "epochs": 1,
        "batch_size": 4,
        "lora_rank": 4,
        "max_length": 64,
        "seed": 3,
    }

    def train(run: str, adapters: dict[str, Any], resume: bool = False) -> Any:
        client = {"training_client": {"name": "local", "device": "cpu"}}
        where: dict[str, Any] = {"resume" if resume else "run_dir": folder / run}
        given = {**client, **adapters}
        return ck.run("sft", config, given, handlers=(), checkpoint="stage", **where)

    return train


def _on_files(folder: Path) -> dict[str, Any]:
    return {
        "dataset_store": "files",
        "metrics_store": {"name": "files", "path": str(folder / "metrics")},
        "blob_store": {"name": "files", "root": str(folder / "blobs")},
        "model_registry": {"name": "files", "root": str(folder / "models")},
    }


def _on_services(folder: Path, s3: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset_store": {"name": "huggingface", "cache_dir": str(folder / "cache")},
        "metrics_store": {"name": "mlflow", "tracking_uri": (folder / "mlruns").as_uri()},
        "blob_store": {"name": "fsspec", "url": "s3://kitchen/sft", **s3},
        "model_registry": {"name": "mlflow", "tracking_uri": (folder / "mlruns").as_uri()},
    }


@pytest.fixture
def only_in_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Take the data set away, after its rows were read into the cache of `datasets`."""

    def take_away() -> None:
        DatasetStore(cache_dir=str(folder / "cache")).load_dataset("data")
        shutil.rmtree(folder / "data")
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)

    return take_away


def _adapter(folder: Path, run: str) -> bytes:
    return (folder / run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore:The filesystem:FutureWarning")
def test_a_run_on_s3_mlflow_and_a_data_sets_cache_ends_as_the_one_on_files(
    folder: Path, train: Train, s3: dict[str, Any], only_in_the_cache: Callable[[], None]
) -> None:
    pytest.importorskip("mlflow", reason="pip install 'crucible-kitchen[mlflow]'")
    on_files = train("a", _on_files(folder))
    only_in_the_cache()
    on_services = train("b", _on_services(folder, s3))
    assert _adapter(folder, "a") == _adapter(folder, "b")

    told = []
    for run, adapters in (
        (on_files, _on_files(folder)),
        (on_services, _on_services(folder, s3)),
    ):
        ports = resolve(ck.bootstrap.named_adapters(adapters))
        run_id = run.context.metadata["run_id"]
        (model,) = ports.model_registry.list()
        told.append(
            {
                "losses": [p.value for p in ports.metrics_store.get_history(run_id, "loss")],
                "files": model.metadata["files"],
                "data": model.lineage["data_sha256"],
                "weights": ports.blob_store.read(f"{model.artifact_uri}/adapter_model.safetensors"),
            }
        )
        ports.close()
    assert told[0] == told[1]
    assert told[0]["weights"] == _adapter(folder, "a")
    assert len(told[0]["losses"]) == 2


def test_a_run_on_tensorboard_ends_as_the_one_on_files(folder: Path, train: Train) -> None:
    pytest.importorskip("tensorboard", reason="pip install 'crucible-kitchen[tensorboard]'")
    store = {"name": "tensorboard", "logdir": str(folder / "logs")}
    train("a", {"dataset_store": "files"})
    train("b", {"dataset_store": "files", "metrics_store": store})
    assert _adapter(folder, "a") == _adapter(folder, "b")


class Breaking(files.MetricsStore):
    """Refuses one value, as a server that restarts does, or that value and all after it."""

    def __init__(self, path: str, at: int, for_good: bool) -> None:
        super().__init__(path)
        self.at, self.for_good, self.asked = at, for_good, 0

    def record(self, *args: Any, **kwargs: Any) -> None:
        self.asked += 1
        if self.asked == self.at or (self.for_good and self.asked > self.at):
            raise PortError("metrics_store: could not reach the server: connection refused")
        super().record(*args, **kwargs)


def test_a_store_that_fails_for_a_moment_is_asked_again(folder: Path, train: Train) -> None:
    train("a", {"dataset_store": "files"})
    store = Breaking(str(folder / "metrics"), at=2, for_good=False)
    patient = retrying(store, Retry(attempts=2, backoff=0.01, on=PortError))
    run = train("b", {"dataset_store": "files", "metrics_store": patient})
    assert _adapter(folder, "a") == _adapter(folder, "b")
    assert len(store.get_history(run.context, "loss")) == 2


def test_a_store_that_fails_in_the_middle_leaves_a_run_that_goes_on(
    folder: Path, train: Train
) -> None:
    train("a", {"dataset_store": "files"})
    broken = Breaking(str(folder / "metrics"), at=4, for_good=True)
    with pytest.raises(StageError, match="could not reach the server") as caught:
        train("b", {"dataset_store": "files", "metrics_store": broken})
    assert isinstance(caught.value.__cause__, PortError)
    lines = (folder / "b" / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["kind"] == "run.error"
    whole = Breaking(str(folder / "metrics"), at=0, for_good=False)
    resumed = train("b", {"dataset_store": "files", "metrics_store": whole}, resume=True)
    assert _adapter(folder, "a") == _adapter(folder, "b")
    assert [p.step for p in whole.get_history(resumed.context, "loss")] == [1, 2]


def test_a_bucket_whose_server_goes_away_costs_nothing_that_was_trained(
    folder: Path, train: Train, s3_server: Any, s3: dict[str, Any]
) -> None:
    server = type(s3_server)(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    quick = {"connect_timeout": 0.2, "retries": {"max_attempts": 0}}
    elsewhere = {**s3, "endpoint_url": f"http://127.0.0.1:{port}", "config_kwargs": quick}
    adapters = {
        "dataset_store": "files",
        "blob_store": {"name": "fsspec", "url": "s3://kitchen/gone", **elsewhere},
    }

    def stop_server(event: ck.Event) -> None:
        if event.kind == "metric" and event.name == "loss":
            server.stop()

    with (
        ck.attach_telemetry(stop_server),
        pytest.raises(StageError, match=r"could not write .* in s3://kitchen/gone") as caught,
    ):
        train("a", adapters)
    assert "topsecret" not in str(caught.value)
    trained = _adapter(folder, "a")
    again = type(s3_server)(ip_address="127.0.0.1", port=port, verbose=False)
    again.start()
    train("a", adapters, resume=True)
    assert _adapter(folder, "a") == trained
    store = BlobStore("s3://kitchen/gone", **elsewhere)
    (blob,) = [path for path in store.list() if path.endswith("adapter_model.safetensors")]
    assert store.read(blob) == trained
    again.stop()
