"""A model registry in memory."""

from __future__ import annotations

import threading

from crucible_kitchen.adapters.registry import Registry
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import already_registered, page
from crucible_kitchen.types import RegisteredModel


class ModelRegistry(Registry):
    """Remembers models for as long as the instance lives; it keeps no time."""

    def __init__(self) -> None:
        self._models: dict[str, RegisteredModel] = {}
        self._lock = threading.Lock()

    def _keep(self, model: RegisteredModel) -> None:
        with self._lock:
            known = self._models.setdefault(model.id, model)
        if known is not model:
            raise already_registered(known)

    def _now(self) -> None:
        return None

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
