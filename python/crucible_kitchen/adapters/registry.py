"""What model registries share: how a model is made of what `register` is given."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.ports import model_id
from crucible_kitchen.types import RegisteredModel


class Registry(ports.ModelRegistry):
    """A registry that says how a model is kept, and leaves it to this what a model is."""

    def register(
        self,
        name: str,
        version: str,
        artifact_uri: str,
        metadata: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredModel:
        """See `ports.ModelRegistry.register`; of two writers of a version, one gets the error."""
        model = RegisteredModel(
            id=model_id(name, version, artifact_uri),
            name=name,
            version=version,
            artifact_uri=artifact_uri,
            metadata=dict(metadata or {}),
            lineage=dict(lineage or {}),
            metrics=dict(metrics or {}),
            created_at=self._now(),
        )
        self._keep(model)
        return model

    @abstractmethod
    def _keep(self, model: RegisteredModel) -> None:
        """Remember a model.

        Raises:
            TypeError: it cannot be written.
            PortError: its name has its version already, or it cannot be kept.
        """

    def _now(self) -> float | None:
        """When a model is registered, in seconds since the epoch; None where no time is kept."""
        return time.time()


def model_text(model: RegisteredModel) -> str:
    """A model as JSON.

    Raises:
        TypeError: something of it is not plain JSON.
    """
    try:
        return json.dumps(model.to_dict(), indent=2, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"model_registry: {model.id} must be plain JSON: {error}") from error
