"""The contract of a data set store, for one that is made of others."""

from __future__ import annotations

import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.compose import ByNameDatasetStore
from crucible_kitchen.errors import DataError
from crucible_kitchen.testing import DatasetStoreContract


class TestByName(DatasetStoreContract):
    @pytest.fixture
    def adapter(self) -> ByNameDatasetStore:
        return ByNameDatasetStore({"data": noop.DatasetStore(), "other": noop.DatasetStore(8)})

    def test_each_name_has_its_own_store(self, adapter: ByNameDatasetStore) -> None:
        sizes = [len(adapter.to_list(adapter.load_dataset(name))) for name in ("data", "other")]
        assert sizes == [64, 8]

    def test_an_unknown_name_gets_a_suggestion(self, adapter: ByNameDatasetStore) -> None:
        with pytest.raises(DataError, match="no data set 'othr'; did you mean 'other'"):
            adapter.load_dataset("othr")
