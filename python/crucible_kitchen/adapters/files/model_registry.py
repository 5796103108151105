"""A model registry as one JSON file a version."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crucible_kitchen import ports
from crucible_kitchen.adapters.disk import create_atomically, speaking_our_errors
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import already_registered, model_id, page
from crucible_kitchen.types import RegisteredModel


class ModelRegistry(ports.ModelRegistry):
    """Remembers models in a folder; several processes may share it.

    Args:
        root: the folder, made at the first `register`.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def register(
        self,
        name: str,
        version: str,
        artifact_uri: str,
        metadata: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredModel:
        """Write a model's file; of two writers of one version, one gets the error."""
        model = RegisteredModel(
            id=model_id(name, version, artifact_uri),
            name=name,
            version=version,
            artifact_uri=artifact_uri,
            metadata=dict(metadata or {}),
            lineage=dict(lineage or {}),
            metrics=dict(metrics or {}),
            created_at=time.time(),
        )
        try:
            text = json.dumps(model.to_dict(), indent=2, sort_keys=True)
        except TypeError as error:
            raise TypeError(f"model_registry: {model.id} must be plain JSON: {error}") from error
        with speaking_our_errors("model_registry", f"register {model.id}"):
            try:
                create_atomically(self._file(model.id), text.encode())
            except FileExistsError:
                raise already_registered(self.get(model.id)) from None
        return model

    def get(self, model_id: str) -> RegisteredModel:
        """Read the file of a model."""
        file = self._file(model_id)
        if not file.is_file():
            raise PortError(f"model_registry: no model {model_id!r}")
        return _read(file)

    def list(
        self, name: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[RegisteredModel]:
        """Models by when they were registered."""
        models = [_read(file) for file in self._root.glob("*.json")]
        models.sort(key=lambda model: (model.created_at or 0.0, model.id))
        return page(models, name, limit, offset)

    def _file(self, model_id: str) -> Path:
        return self._root / f"{quote(model_id, safe='')}.json"


def _read(file: Path) -> RegisteredModel:
    with speaking_our_errors("model_registry", f"read {file}"):
        text = file.read_bytes()
    try:
        return RegisteredModel.from_dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise PortError(f"model_registry: {file} is damaged: {error}") from error
