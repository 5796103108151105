"""The same training on files and on other stores: one line changes, and not the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import files, huggingface, mlflow, tensorboard
from crucible_kitchen.adapters.local import TrainingClient

pytest.importorskip("datasets", reason="pip install 'crucible-kitchen[huggingface]'")


def _train(folder: Path, data: str, model: str, adapters: dict[str, Any]) -> Any:
    config = {
        "model": model,
        "dataset": data,
        "epochs": 1,
        "batch_size": 4,
        "lora_rank": 4,
        "max_length": 64,
        "seed": 3,
    }
    client = TrainingClient(device="cpu")
    try:
        return ck.run(
            "sft",
            config,
            {**adapters, "training_client": client},
            run_dir=folder,
            handlers=(),
        )
    finally:
        client.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"Count to {n}.", "completion": "one two three"} for n in range(8)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "train.jsonl").write_text(text)
    return tmp_path


@pytest.mark.parametrize("system", ["mlflow", "tensorboard"])
def test_the_adapter_that_was_trained_is_the_same(
    data: Path, tiny_folder: str, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(system, reason=f"pip install 'crucible-kitchen[{system}]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    stores: dict[str, Any] = {
        "mlflow": lambda: mlflow.MetricsStore((data / "mlruns").as_uri()),
        "tensorboard": lambda: tensorboard.MetricsStore(str(data / "logs")),
    }
    on_files = _train(data / "a", "data", tiny_folder, {"dataset_store": files.DatasetStore})
    hub = huggingface.DatasetStore(cache_dir=str(data / "cache"))
    hub.load_dataset("data")
    # From here on the data set is in the cache only.
    shutil.rmtree(data / "data")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    store = stores[system]()
    elsewhere = _train(
        data / "b", "data", tiny_folder, {"dataset_store": hub, "metrics_store": store}
    )
    weights = [(data / run / "adapter" / "adapter_model.safetensors") for run in "ab"]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    losses = [point.value for point in store.get_history(elsewhere.context, "loss")]
    store.close()
    assert losses == [record.value for record in on_files.metrics.history("loss")]
