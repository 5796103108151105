"""Every recipe tells a registry what it has trained, and puts the weights where it is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.adapters import files, noop
from crucible_kitchen.ports import Future
from crucible_kitchen.recipes import RECIPES
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pairs_file(tmp_path: Path) -> str:
    """Rows that every recipe can read."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"What is {n}?", "completion": "It.", "chosen": f"It is {n}.", "rejected": "No."}
        for n in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def train(tmp_path, pairs_file):
    def run(recipe="sft", *, client=None, adapters=None, **config):
        client = client or noop.TrainingClient()
        return ck.run(
            recipe,
            {
                "model": "some/model",
                "dataset": pairs_file,
                "eval_rows": 2,
                "max_steps": 3,
                **config,
            },
            {"training_client": client, "completer": noop.Completer(), **(adapters or {})},
            run_dir=tmp_path / f"run{len(list(tmp_path.glob('run*')))}",
            handlers=(),
        )

    return run


def only(registry):
    (model,) = registry.list()
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_registry_learns_what_was_trained_from_what_and_how_good_it_is(
    train, tmp_path, pairs_file, recipe
) -> None:
    registry = files.ModelRegistry(str(tmp_path / "registry"))
    result = train(recipe, adapters={"model_registry": registry})
    model = only(registry)
    run_id = result.context.get_metadata("run_id")
    assert (model.name, model.version) == ("model", run_id)
    assert model.id == result.context.state.registered_model
    assert model.artifact_uri == result.artifacts["adapter_path"]
    assert model.metadata["config"]["learning_rate"] == result.context.config.learning_rate
    assert model.lineage["base_model"] == "some/model"
    assert model.lineage["base_sha256"] is None, "its weights are not on this machine"
    assert (model.lineage["data"], model.lineage["data_rows"]) == (pairs_file, 8)
    assert (model.lineage["steps"], model.lineage["run_id"]) == (3, run_id)
    for name in ("loss", "eval_loss"):
        assert model.metrics[name] == result.metrics.latest(name)
    assert "tokens" not in model.metrics


def test_the_data_is_told_by_its_content(train, tmp_path, pairs_file) -> None:
    def fingerprint(name, **config):
        registry = files.ModelRegistry(str(tmp_path / name))
        train(adapters={"model_registry": registry}, **config)
        return only(registry).lineage["data_sha256"]

    first = fingerprint("a")
    lines = Path(pairs_file).read_text().splitlines()
    keys_turned = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    Path(pairs_file).write_text("\n".join(keys_turned) + "\n")
    assert fingerprint("b", learning_rate=1e-5) == first
    Path(pairs_file).write_text("\n".join(lines).replace("What is 3", "Why is 3") + "\n")
    assert fingerprint("c") != first


def test_the_base_is_told_by_its_weights(train, tmp_path) -> None:
    base = Path(tiny_llama(tmp_path / "tiny"))
    registry = files.ModelRegistry(str(tmp_path / "registry"))
    train(model=str(base), adapters={"model_registry": registry})
    content = (base / "model.safetensors").read_bytes()
    assert only(registry).name == "tiny"
    assert only(registry).lineage["base_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_blob_store_takes_the_weights(train, tmp_path) -> None:
    registry, blobs = files.ModelRegistry(str(tmp_path / "registry")), noop.BlobStore()
    result = train(adapters={"model_registry": registry, "blob_store": blobs})
    model, saved = only(registry), Path(result.artifacts["adapter_path"])
    assert model.artifact_uri == f"models/{model.version}"
    names = sorted(path.name for path in saved.iterdir())
    assert names == sorted(model.metadata["files"])
    assert blobs.list() == [f"{model.artifact_uri}/{name}" for name in names]
    for name, digest in model.metadata["files"].items():
        content = blobs.read(f"{model.artifact_uri}/{name}")
        assert content == (saved / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


def test_a_blob_store_alone_takes_the_weights_too(train) -> None:
    blobs = noop.BlobStore()
    result = train(adapters={"blob_store": blobs})
    assert result.context.state.registered_model is None
    assert blobs.list(f"models/{result.context.get_metadata('run_id')}/")


def test_of_several_processes_the_first_tells(train, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    registry, blobs = files.ModelRegistry(str(tmp_path / "registry")), noop.BlobStore()
    train(adapters={"model_registry": registry, "blob_store": blobs})
    assert (registry.list(), blobs.list()) == ([], [])


def test_without_either_nothing_is_told(train) -> None:
    assert train().context.state.registered_model is None


def test_a_restored_model_is_registered_as_what_it_is(train, tmp_path) -> None:
    class WorseAfterTwo(noop.TrainingClient):
        def forward(self, session, datums, *rest):
            result = super().forward(session, datums, *rest).result()
            worse = {name: value + 9.0 for name, value in result.metrics.items()}
            metrics = worse if session.steps > 2 else result.metrics
            return Future.resolved(type(result)(result.loss, result.loss_fn_outputs, metrics))

    registry = files.ModelRegistry(str(tmp_path / "registry"))
    result = train(
        client=WorseAfterTwo(),
        adapters={"model_registry": registry},
        max_steps=4,
        eval_every=1,
        save_best=True,
    )
    model = only(registry)
    assert model.lineage["steps"] == 2
    assert model.metrics["eval_loss"] == result.metrics.latest("restored_eval_loss")
    assert model.metrics["eval_loss"] < result.metrics.latest("eval_loss")


def test_asked_twice_it_registers_once(train, tmp_path) -> None:
    """As when a run is stopped after it has registered, and goes on."""
    from crucible_kitchen.stages import register_model

    registry = files.ModelRegistry(str(tmp_path / "registry"))
    result = train(adapters={"model_registry": registry})
    state = result.context.state
    again = register_model(
        state.adapter_path,
        "some/model",
        state.model_path,
        state.train_rows,
        state.step,
        model_registry=registry,
        blob_store=None,
        ctx=result.context,
    )
    assert again == only(registry).id


def test_a_run_without_a_folder_registers_the_name_of_its_weights(tmp_path, pairs_file) -> None:
    registry = files.ModelRegistry(str(tmp_path / "registry"))
    ck.run(
        RECIPES["sft"].workflow,
        RECIPES["sft"].Config(model="m", dataset=pairs_file, max_steps=1, eval_rows=0),
        {
            "training_client": "noop",
            "dataset_store": "files",
            "model_registry": registry,
            "blob_store": (blobs := noop.BlobStore()),
        },
        handlers=(),
    )
    assert only(registry).artifact_uri == "adapter"
    assert blobs.list() == []
