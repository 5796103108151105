"""The data sets of the `datasets` library keep the port's contract; a missing one says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible_kitchen.adapters.huggingface import DatasetStore
from crucible_kitchen.errors import CrucibleError, DataError
from crucible_kitchen.testing import DatasetStoreContract

pytest.importorskip("datasets", reason="the extra huggingface is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set as a folder of JSON lines, with a train and a validation split."""
    (tmp_path / "data").mkdir()
    for split, count in (("train", 9), ("validation", 3)):
        rows = [json.dumps({"prompt": f"{split} {i}", "completion": f"c{i}"}) for i in range(count)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestDatasetStore(DatasetStoreContract):
    @pytest.fixture
    def adapter(self, folder: Path) -> DatasetStore:
        return DatasetStore(cache_dir=str(folder / "cache"))


def test_the_cache_folder_is_honoured(folder: Path) -> None:
    store = DatasetStore(cache_dir=str(folder / "cache"))
    assert len(store.to_list(store.load_dataset("data", split="train", limit=4))) == 4
    assert any((folder / "cache").rglob("*.arrow"))


def test_a_stream_has_the_same_rows(folder: Path) -> None:
    store = DatasetStore(cache_dir=str(folder / "cache"))
    stream = store.load_dataset("data", split="train", streaming=True)
    assert store.to_list(stream) == store.to_list(store.load_dataset("data", split="train"))
    assert [len(batch) for batch in store.iterate(stream, batch_size=4)] == [4, 4, 1]


def test_what_is_not_there_is_named(folder: Path) -> None:
    store = DatasetStore(cache_dir=str(folder / "cache"))
    with pytest.raises(DataError, match="test"):
        store.load_dataset("data", split="test")
    with pytest.raises(CrucibleError, match="absent"):
        store.load_dataset("absent-folder", split="train")
