"""The contract of `DatasetStore`."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import DatasetStore

from .base import PortContract


class DatasetStoreContract(PortContract):
    """The `adapter` has a data set `dataset` with at least 5 rows in ``train``, all different.

    `options` go with every `load_dataset`; `split` is another split of it, None where it has none.
    """

    port = DatasetStore
    dataset: ClassVar[str] = "data"
    options: ClassVar[dict[str, Any]] = {}
    split: ClassVar[str | None] = "validation"

    def load(self, adapter: DatasetStore, **more: Any) -> Any:
        """The data set's handle."""
        return adapter.load_dataset(self.dataset, **{**self.options, **more})

    def rows(self, adapter: DatasetStore, **more: Any) -> list[dict[str, Any]]:
        """The data set's rows."""
        return adapter.to_list(self.load(adapter, **more))

    def test_loads_the_same_rows_twice(self, adapter: DatasetStore) -> None:
        rows = self.rows(adapter)
        assert len(rows) >= 5
        assert all(isinstance(row, dict) and row for row in rows)
        assert self.rows(adapter) == rows

    def test_limit_takes_the_first_rows(self, adapter: DatasetStore) -> None:
        assert self.rows(adapter, limit=3) == self.rows(adapter)[:3]
        with pytest.raises(ValueError, match="limit"):
            self.load(adapter, limit=0)

    def test_refuses_an_unknown_option(self, adapter: DatasetStore) -> None:
        with pytest.raises(ConfigError, match="no_such_option"):
            self.load(adapter, no_such_option=1)

    def test_an_unknown_split_is_named(self, adapter: DatasetStore) -> None:
        with pytest.raises(DataError, match="no-such-split"):
            self.load(adapter, split="no-such-split")
        with pytest.raises(DataError, match="no-such-split"):
            adapter.get_split(self.load(adapter), "no-such-split")

    def test_splits_share_no_row(self, adapter: DatasetStore) -> None:
        if self.split is None:
            pytest.skip("the contract says that this data set has one split")
        other = adapter.to_list(adapter.get_split(self.load(adapter, limit=1), self.split))
        assert other == self.rows(adapter, split=self.split)
        train = self.rows(adapter)
        assert not [row for row in other if row in train]

    def test_shuffle_is_a_permutation_that_depends_on_the_seed(self, adapter: DatasetStore) -> None:
        handle = self.load(adapter)
        rows = adapter.to_list(handle)
        once, again, other = (adapter.to_list(adapter.shuffle(handle, seed=s)) for s in (1, 1, 2))
        assert once == again != other
        assert once != rows
        assert sorted(map(_key, once)) == sorted(map(_key, rows))
        assert adapter.to_list(handle) == rows, "the handle itself was shuffled"

    def test_take_skip_and_select_cut(self, adapter: DatasetStore) -> None:
        handle = self.load(adapter)
        rows = adapter.to_list(handle)
        assert adapter.to_list(adapter.take(handle, 2)) == rows[:2]
        assert adapter.to_list(adapter.take(handle, 10**9)) == rows
        assert adapter.to_list(adapter.take(handle, 0)) == []
        assert adapter.to_list(adapter.skip(handle, 2)) == rows[2:]
        assert adapter.to_list(adapter.skip(handle, 10**9)) == []
        assert adapter.to_list(adapter.select(handle, [3, 0, 3])) == [rows[3], rows[0], rows[3]]
        assert adapter.to_list(adapter.select(handle, range(1, 4))) == rows[1:4]

    @pytest.mark.parametrize("index", [-1, 10**9])
    def test_select_refuses_what_is_not_there(self, adapter: DatasetStore, index: int) -> None:
        with pytest.raises(IndexError, match=str(index)):
            adapter.select(self.load(adapter), [0, index])

    def test_changing_a_row_changes_nobody_elses(self, adapter: DatasetStore) -> None:
        handle = self.load(adapter)
        adapter.to_list(handle)[0].clear()
        next(iter(adapter.iterate(handle, 2)))[0].clear()
        assert adapter.to_list(handle)[0]

    def test_iterates_all_rows_once(self, adapter: DatasetStore) -> None:
        handle = self.load(adapter, limit=5)
        batches = list(adapter.iterate(handle, batch_size=2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert [row for batch in batches for row in batch] == adapter.to_list(handle)
        with pytest.raises(ValueError, match="batch_size"):
            adapter.iterate(handle, batch_size=0)

    def test_iteration_goes_on_from_a_saved_state(self, adapter: DatasetStore) -> None:
        handle = self.load(adapter, limit=5)
        batches = adapter.iterate(handle, batch_size=2)
        next(batches)
        state = json.loads(json.dumps(batches.state_dict()))
        rest = list(batches)
        resumed = adapter.iterate(handle, batch_size=2)
        resumed.load_state_dict(state)
        assert list(resumed) == rest
        assert len(rest) == 2


def _key(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)
