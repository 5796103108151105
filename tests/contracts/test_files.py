"""Every adapter over files keeps its port's contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible_kitchen.adapters import files
from crucible_kitchen.testing import (
    BlobStoreContract,
    DatasetStoreContract,
    MetricsStoreContract,
    ModelRegistryContract,
)


def _write_rows(path: Path, first: int, count: int) -> None:
    lines = [json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) for i in range(count + first)]
    path.write_text("\n".join(lines[first:]) + "\n")


class TestFolderDatasetStore(DatasetStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> files.DatasetStore:
        (tmp_path / "data").mkdir()
        _write_rows(tmp_path / "data" / "train.jsonl", 0, 9)
        _write_rows(tmp_path / "data" / "validation.jsonl", 9, 3)
        return files.DatasetStore(str(tmp_path))


class TestFileWithHeldOutRows(DatasetStoreContract):
    dataset = "data.jsonl"
    options = {"validation_fraction": 0.25}  # noqa: RUF012 - as the contract declares it

    @pytest.fixture
    def adapter(self, tmp_path: Path) -> files.DatasetStore:
        _write_rows(tmp_path / "data.jsonl", 0, 12)
        return files.DatasetStore(str(tmp_path))


class TestBlobStore(BlobStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> files.BlobStore:
        return files.BlobStore(str(tmp_path / "blobs"))


class TestMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[files.MetricsStore]:
        store = files.MetricsStore(str(tmp_path / "run" / "metrics.jsonl"))
        yield store
        store.close()


class TestModelRegistry(ModelRegistryContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> files.ModelRegistry:
        return files.ModelRegistry(str(tmp_path / "models"))
