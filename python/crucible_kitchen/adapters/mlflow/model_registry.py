"""A model registry in MLflow's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from crucible_kitchen.adapters.points import MARK
from crucible_kitchen.adapters.registry import Registry, model_text
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import already_registered, page
from crucible_kitchen.types import RegisteredModel

from .client import all_pages, client, errors, quoted

_PORT: Final = "model_registry"
_VERSION: Final = f"{MARK}.version"
_MODEL: Final = f"{MARK}.model"


class ModelRegistry(Registry):
    """Models as MLflow's registered models, what was said about them in tags.

    MLflow numbers versions itself; ours stands in a tag, beside the whole model as JSON. A name
    with characters that MLflow refuses is kept quoted, as in a URL but with ~ for %.

    Args:
        tracking_uri: server or folder; by default what ``MLFLOW_TRACKING_URI`` names.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        self._client = client(tracking_uri, _PORT)

    def _keep(self, model: RegisteredModel) -> None:
        text, name = model_text(model), _quoted(model.name)
        with errors(_PORT, f"register {model.id}"):
            self._make_name(name)
            self._refuse_taken(model.id, self._versions(model.name, model.version))
            made = self._client.create_model_version(
                name, model.artifact_uri, tags={_VERSION: model.version, _MODEL: text}
            )
            # Another writer may have come in between; the one that MLflow numbered first has it.
            earlier = [
                one
                for one in self._versions(model.name, model.version)
                if int(one.version) < int(made.version)
            ]
            if earlier:
                self._client.delete_model_version(made.name, made.version)
                self._refuse_taken(model.id, earlier)

    def get(self, model_id: str) -> RegisteredModel:
        """The model with this id."""
        name, _, version = model_id.rpartition(":")
        with errors(_PORT, f"get {model_id}"):
            found = self._versions(name, version) if name else []
        if not found:
            raise PortError(f"model_registry: no model {model_id!r}")
        return _model(found[0])

    def list(
        self, name: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[RegisteredModel]:
        """Models by when they were registered, also those that others registered in MLflow."""
        with errors(_PORT, "list models"):
            models = [_model(one) for one in all_pages(self._client.search_model_versions)]
        models.sort(key=lambda model: (model.created_at or 0.0, model.id))
        return page(models, name, limit, offset)

    def _make_name(self, name: str) -> None:
        known = self._client.search_registered_models(f"name = {quoted(name)}")
        if not known:
            self._client.create_registered_model(name)

    def _versions(self, name: str, version: str) -> Sequence[Any]:
        found = all_pages(
            self._client.search_model_versions, filter_string=f"name = {quoted(_quoted(name))}"
        )
        return sorted(
            (one for one in found if one.tags.get(_VERSION, str(one.version)) == version),
            key=lambda one: int(one.version),
        )

    def _refuse_taken(self, wanted: str, known: Sequence[Any]) -> None:
        if known:
            raise already_registered(_model(known[0]))


def _quoted(name: str) -> str:
    # MLflow refuses % as well, so ~ stands in its place.
    return quote(name, safe=" ()").replace("~", "%7E").replace("%", "~")


def _model(one: Any) -> RegisteredModel:
    text = one.tags.get(_MODEL)
    if text is None:
        name, version = one.name, str(one.version)
        created = one.creation_timestamp / 1000
        return RegisteredModel(
            f"{name}:{version}", name, version, one.source or "", created_at=created
        )
    try:
        return RegisteredModel.from_dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise PortError(
            f"model_registry: version {one.version} of {one.name} is damaged: {error}"
        ) from error
