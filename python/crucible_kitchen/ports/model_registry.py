"""The `model_registry` port: which trained model is which."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from crucible_kitchen.errors import PortError

from .base import Port

if TYPE_CHECKING:
    from crucible_kitchen.types import RegisteredModel


class ModelRegistry(Port):
    """Remembers models by name and version."""

    name: ClassVar[str] = "model_registry"
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def register(
        self,
        name: str,
        version: str,
        artifact_uri: str,
        metadata: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> RegisteredModel:
        """Remember a model.

        Args:
            name: of the model.
            version: without a colon.
            artifact_uri: where its weights are.
            metadata: anything JSON can hold.
            lineage: what it was made from.
            metrics: how good it is.
        Raises:
            ValueError: an empty name, version or address, or a colon in the version.
            PortError: this name has this version already, or it cannot be kept.
        """

    @abstractmethod
    def get(self, model_id: str) -> RegisteredModel:
        """The model with this id, ``name:version``.

        Raises:
            PortError: there is none.
        """

    @abstractmethod
    def list(
        self, name: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[RegisteredModel]:
        """Models in the order in which they came.

        Args:
            name: only versions of this model.
            limit: at most so many.
            offset: leave out so many first.
        """


def model_id(name: str, version: str, artifact_uri: str) -> str:
    """The id of a model to register, after checking what it is made of.

    Raises:
        ValueError: an empty name, version or address, or a colon in the version.
    """
    given = {"name": name, "version": version, "artifact_uri": artifact_uri}
    for argument, value in given.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f"register: {argument} must be text, not empty, got {value!r}")
    if ":" in version:
        raise ValueError(f"register: version must have no colon, got {version!r}")
    return f"{name}:{version}"


def page(
    models: Iterable[RegisteredModel], name: str | None, limit: int | None, offset: int
) -> list[RegisteredModel]:
    """The part of all models, in order, that `list` was asked for.

    Raises:
        ValueError: a negative limit or offset.
    """
    if offset < 0 or (limit is not None and limit < 0):
        raise ValueError(f"list: limit, offset must be at least 0, got {limit}, {offset}")
    found = [model for model in models if name is None or model.name == name]
    return found[offset:] if limit is None else found[offset : offset + limit]


def already_registered(known: RegisteredModel) -> PortError:
    """The error for a name and version that are taken."""
    return PortError(
        f"model_registry: {known.id} is registered already, with {known.artifact_uri}; "
        "a version never changes, so give this one another"
    )
