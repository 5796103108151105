"""A model registry in memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import already_registered, model_id, page
from crucible_kitchen.types import RegisteredModel


class ModelRegistry(ports.ModelRegistry):
    """Remembers models for as long as the instance lives; it keeps no time."""

    def __init__(self) -> None:
        self._models: dict[str, RegisteredModel] = {}
        self._lock = threading.Lock()

    def register(
        self,
        name: str,
        version: str,
        artifact_uri: str,
        metadata: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredModel:
        """Remember a model."""
        model = RegisteredModel(
            id=model_id(name, version, artifact_uri),
            name=name,
            version=version,
            artifact_uri=artifact_uri,
            metadata=dict(metadata or {}),
            lineage=dict(lineage or {}),
            metrics=dict(metrics or {}),
        )
        with self._lock:
            known = self._models.setdefault(model.id, model)
        if known is not model:
            raise already_registered(known)
        return model

    def get(self, model_id: str) -> RegisteredModel:
        """The model with this id."""
        try:
            return self._models[model_id]
        except KeyError:
            raise PortError(f"model_registry: no model {model_id!r}") from None

    def list(
        self, name: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[RegisteredModel]:
        """Models in the order in which they came."""
        return page(self._models.values(), name, limit, offset)
