"""Data sets through the real `datasets` library, from folders made here and from its cache."""

from __future__ import annotations

import json
import shutil
import socket
import time
from typing import Any

import huggingface_hub
import pytest

from crucible_kitchen.adapters.huggingface import DatasetStore
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.testing import DatasetStoreContract

datasets = pytest.importorskip("datasets", reason="pip install 'crucible-kitchen[huggingface]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="datasets brings pyarrow")

ROWS = [{"prompt": f"p{i}", "messages": [{"role": "user", "content": f"c{i}"}]} for i in range(12)]


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``data``: a Parquet file of each split."""
    import pyarrow

    (tmp_path / "data").mkdir()
    for split, rows in (("train", ROWS[:9]), ("validation", ROWS[9:])):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestPrepared(DatasetStoreContract):
    @pytest.fixture
    def adapter(self, folder):
        return DatasetStore(cache_dir=str(folder / "cache"))


class TestStreaming(DatasetStoreContract):
    options = {"streaming": True}  # noqa: RUF012 - as the contract declares it

    @pytest.fixture
    def adapter(self, folder):
        return DatasetStore(cache_dir=str(folder / "cache"))


@pytest.fixture
def store(folder):
    return DatasetStore(cache_dir=folder / "cache")


def test_rows_are_those_that_were_written(store):
    assert store.to_list(store.load_dataset("data")) == ROWS[:9]
    assert store.to_list(store.load_dataset("data", "validation", streaming=True)) == ROWS[9:]


@pytest.mark.parametrize("streaming", [False, True])
def test_fields_that_only_other_rows_have_are_not_there(store, folder, streaming):
    rows = [{"tools": [{"name": "f", "a": 1}]}, {"tools": [{"name": "g", "b": 2}]}]
    (folder / "tools").mkdir()
    (folder / "tools" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    handle = store.load_dataset("tools", streaming=streaming)
    assert store.to_list(handle) == rows
    assert store.to_list(store.select(handle, [1])) == rows[1:]


def test_the_cache_is_where_it_was_asked_for_and_serves_without_the_source(store, folder):
    rows = store.to_list(store.load_dataset("data"))
    shutil.rmtree(folder / "data")
    assert list((folder / "cache").rglob("*.arrow"))
    again = DatasetStore(cache_dir=str(folder / "cache"))
    assert again.to_list(again.load_dataset("data")) == rows
    elsewhere = DatasetStore(cache_dir=str(folder / "empty"))
    with pytest.raises(PortError, match="could not reach 'data', and it is not in the cache"):
        elsewhere.load_dataset("data")


def test_a_hub_that_does_not_answer_is_told_at_once(store, monkeypatch, caplog):
    # Nobody listens at a port that was just given back.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(PortError, match=r"could not reach 'org/rows', .* gave no answer"):
        store.load_dataset("org/rows")
    assert time.monotonic() - began < 5
    assert caplog.text == ""


def test_a_split_may_be_a_slice(store):
    assert store.to_list(store.load_dataset("data", "train[:2]")) == ROWS[:2]
    with pytest.raises(DataError, match=r"no split 'train\[:two\]'; it has train, validation"):
        store.load_dataset("data", "train[:two]")


def test_selecting_reads_no_row(store, monkeypatch):
    handle = store.load_dataset("data")
    monkeypatch.setattr(datasets.Dataset, "__getitem__", None)
    assert len(store.shuffle(store.take(handle, 5), seed=3)) == 5


def test_a_shuffled_stream_goes_on_where_it_was(store):
    handle = store.shuffle(store.load_dataset("data", streaming=True), seed=5)
    batches = store.iterate(handle, 4)
    next(batches)
    resumed = store.iterate(handle, 4)
    resumed.load_state_dict(json.loads(json.dumps(batches.state_dict())))
    assert list(resumed) == list(batches)
    with pytest.raises(DataError, match="position"):
        resumed.load_state_dict({"position": -1})


@pytest.mark.parametrize("streaming", [False, True])
def test_a_damaged_file_is_a_data_error_that_names_the_data_set(store, folder, streaming):
    (folder / "data" / "train.parquet").write_bytes(b"PAR1 is not what follows")
    with pytest.raises(DataError, match="could not load 'data'"):
        store.to_list(store.load_dataset("data", streaming=streaming))


def test_an_absent_folder_and_a_bad_option_are_told(store, folder):
    with pytest.raises(DataError, match="nowhere"):
        store.load_dataset(str(folder / "nowhere"))
    with pytest.raises(ConfigError, match="streaming must be true or false"):
        store.load_dataset("data", streaming="yes")
    with pytest.raises(ConfigError, match="did you mean 'revision'"):
        store.load_dataset("data", revison="main")


def test_a_token_is_in_no_message(folder, monkeypatch):
    def refuse(*_: Any, **options: Any) -> Any:
        raise ConnectionError(f"401 for {options['token']}")

    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    with pytest.raises(PortError, match=r"401 for \*\*\*") as caught:
        DatasetStore(token="topsecret").load_dataset("org/private")
    assert caught.value.__suppress_context__


def test_without_the_library_the_extra_is_named(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PortError, match=r"pip install 'crucible-kitchen\[huggingface\]'"):
        DatasetStore().load_dataset("data")
