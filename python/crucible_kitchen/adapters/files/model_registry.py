"""A model registry as one JSON file a version."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from crucible_kitchen.adapters.disk import create_atomically, speaking_our_errors
from crucible_kitchen.adapters.registry import Registry, model_text
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import already_registered, page
from crucible_kitchen.types import RegisteredModel


class ModelRegistry(Registry):
    """Remembers models in a folder; several processes may share it.

    Args:
        root: the folder, made at the first `register`.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def _keep(self, model: RegisteredModel) -> None:
        text = model_text(model)
        with speaking_our_errors("model_registry", f"register {model.id}"):
            try:
                create_atomically(self._file(model.id), text.encode())
            except FileExistsError:
                raise already_registered(self.get(model.id)) from None

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
