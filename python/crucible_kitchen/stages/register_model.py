"""Tell a registry what was trained, from what, and how good it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context, MetricLog
from crucible_kitchen.engine.handlers.jsonl import plain
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import BlobStore, ModelRegistry, Row

_WEIGHTS = (".safetensors", ".gguf", ".bin")
_PIECE = 1 << 20


@stage(writes="registered_model")
def register_model(
    adapter_path: str,
    model: str,
    model_path: str,
    train_rows: list[Row],
    step: int,
    *,
    model_registry: ModelRegistry | None,
    blob_store: BlobStore | None,
    ctx: Context,
) -> str | None:
    """The saved weights under the model's name, with the run's id as their version.

    Where there is a blob store, their files are put there as ``models/<version>/...``. Of several
    processes that train one model, as `torchrun` starts them, the first speaks for all.

    Args:
        step: optimizer steps taken; of a model that was restored, those that it had taken count.
    Returns:
        The id in the registry; None without one.
    Raises:
        PortError: the blobs cannot be written, or the registry does not take the model.
    """
    if int(os.environ.get("RANK", "0")):
        return None
    version, name = str(ctx.get_metadata("run_id")), Path(model).name
    saved, address = Path(adapter_path), adapter_path
    # A run without a folder leaves the weights with the client, under a bare name.
    files = _files(saved) if saved.is_absolute() else {}
    if blob_store is not None and files:
        address = f"models/{version}"
        for file, path in files.items():
            blob_store.write(f"{address}/{file}", _pieces(path))
    if model_registry is None:
        return None
    # A run that was stopped between this and its journal has told it already.
    for known in model_registry.list(name):
        if known.version == version:
            return known.id
    trained = int(ctx.metrics.latest("restored_step")) if _restored(ctx.metrics) else step
    return model_registry.register(
        name,
        version,
        address,
        metadata={
            "config": plain(dict(ctx.config)),
            "files": {file: _sha256(_pieces(path)) for file, path in files.items()},
        },
        lineage={
            "run_id": version,
            "base_model": model,
            "base_sha256": _base_sha256(Path(model_path)),
            "data": plain(ctx.get_config("dataset")),
            "data_sha256": _sha256(_lines(train_rows)),
            "data_rows": len(train_rows),
            "steps": trained,
        },
        metrics=_metrics_at(ctx.metrics, trained),
    ).id


def _restored(metrics: MetricLog) -> bool:
    return "restored_step" in metrics.names()


def _metrics_at(metrics: MetricLog, step: int) -> dict[str, float]:
    """The loss of a step, and what was evaluated after it."""
    return {
        record.name: record.value
        for record in metrics
        if record.step == step and (record.name == "loss" or record.name.startswith("eval_"))
    }


def _files(path: Path) -> dict[str, Path]:
    """The files of a folder by their place in it; none of what is not on this machine."""
    found = sorted(path.rglob("*")) if path.is_dir() else []
    return {file.relative_to(path).as_posix(): file for file in found if file.is_file()}


def _base_sha256(path: Path) -> str | None:
    """One hash of the base model's weights; None where they are not on this machine."""
    files = {path.name: path} if path.is_file() else _files(path)
    weights = {name: file for name, file in files.items() if name.endswith(_WEIGHTS)}
    if not weights:
        return None
    return _sha256(piece for file in weights.values() for piece in _pieces(file))


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Rows as bytes that are equal where the rows are."""
    for row in rows:
        yield json.dumps(row, sort_keys=True, default=str).encode() + b"\n"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
