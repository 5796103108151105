"""The contract of `ModelRegistry`."""

from __future__ import annotations

import pytest

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import ModelRegistry

from .base import PortContract


class ModelRegistryContract(PortContract):
    """The `adapter` is an empty registry."""

    port = ModelRegistry

    def test_gives_back_what_was_registered(self, adapter: ModelRegistry) -> None:
        model = adapter.register(
            "org/../my model",
            "1.0",
            "file:///weights",
            metadata={"rank": 16},
            lineage={"base": "tiny"},
            metrics={"loss": 0.5},
        )
        assert model.id == "org/../my model:1.0"
        assert adapter.get(model.id) == model
        assert (model.metadata, model.lineage) == ({"rank": 16}, {"base": "tiny"})
        assert model.metrics == {"loss": 0.5}

    def test_a_version_never_changes(self, adapter: ModelRegistry) -> None:
        first = adapter.register("m", "1", "file:///a")
        with pytest.raises(PortError, match="m:1"):
            adapter.register("m", "1", "file:///b")
        assert adapter.get("m:1") == first

    def test_lists_in_order_by_name_and_page(self, adapter: ModelRegistry) -> None:
        for name, version in (("b", "1"), ("a", "1"), ("b", "2"), ("b", "3")):
            adapter.register(name, version, "file:///w")

        def ids(**options: int | str) -> list[str]:
            return [model.id for model in adapter.list(**options)]  # type: ignore[arg-type]

        assert ids() == ["b:1", "a:1", "b:2", "b:3"]
        assert ids(name="b") == ["b:1", "b:2", "b:3"]
        assert ids(name="b", offset=1, limit=1) == ["b:2"]
        assert ids(limit=0) == ids(offset=9) == ids(name="c") == []

    def test_an_unknown_model_is_named(self, adapter: ModelRegistry) -> None:
        with pytest.raises(PortError, match="nobody:1"):
            adapter.get("nobody:1")

    @pytest.mark.parametrize(
        ("name", "version", "uri"),
        [("", "1", "u"), ("m", "", "u"), ("m", "1", ""), ("m", "1:2", "u")],
    )
    def test_refuses_what_names_nothing(
        self, adapter: ModelRegistry, name: str, version: str, uri: str
    ) -> None:
        with pytest.raises(ValueError, match="register"):
            adapter.register(name, version, uri)
        assert adapter.list() == []
