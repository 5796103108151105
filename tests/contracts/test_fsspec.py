"""Blobs through `fsspec` keep the port's contract: in memory, on disk, and on an S3 server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.fsspec import BlobStore
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import BlobStoreContract

fsspec = pytest.importorskip("fsspec", reason="pip install 'crucible-kitchen[fsspec]'")


class TestMemory(BlobStoreContract):
    @pytest.fixture
    def adapter(self) -> Iterator[BlobStore]:
        yield BlobStore("memory://test/blobs")
        fsspec.filesystem("memory").store.clear()


class TestDisk(BlobStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> BlobStore:
        return BlobStore(f"file://{tmp_path / 'blobs'}")


class TestS3(BlobStoreContract):
    @pytest.fixture
    def adapter(self, s3: dict[str, Any]) -> Iterator[BlobStore]:
        store = BlobStore("s3://kitchen/runs", **s3)
        yield store
        for path in store.list():
            store.delete(path)


def test_a_large_blob_goes_to_s3_in_parts_and_comes_back(s3: dict[str, Any]) -> None:
    store = BlobStore("s3://kitchen/large", **s3)
    piece = bytes(range(256)) * 4096
    store.write("weights", (piece for _ in range(12)))
    assert b"".join(store.stream("weights", 3 << 20)) == piece * 12
    store.delete("weights")


def test_a_bucket_that_is_not_there_is_told(s3: dict[str, Any]) -> None:
    store = BlobStore("s3://no-such-bucket/x", **s3)
    with pytest.raises(PortError, match=r"could not write a in s3:.*bucket"):
        store.write("a", b"1")
    with pytest.raises(PortError, match="no blob at 'a'"):
        store.read("a")


def test_no_server_is_told_without_the_key(s3: dict[str, Any]) -> None:
    quick = {"connect_timeout": 0.2, "retries": {"max_attempts": 0}}
    nowhere = {**s3, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": quick}
    store = BlobStore("s3://kitchen/x", **nowhere)
    for attempt in (store.read, store.exists, store.list, store.delete):
        with pytest.raises(PortError, match=r"could not .* in s3://kitchen/x") as caught:
            attempt("a")
        assert not re.search("topsecret|AKIATEST", str(caught.value))
        assert caught.value.__suppress_context__


def test_a_protocol_that_is_not_there_is_told() -> None:
    with pytest.raises(PortError, match="no-such-thing"):
        BlobStore("no-such-thing://x")


def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(PortError) as caught:
        BlobStore("no-such-thing://cook:topsecret@host/x")
    assert "topsecret" not in str(caught.value)


def test_a_disk_that_refuses_is_told_and_leaves_the_old_blob(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = BlobStore(f"file://{tmp_path}")
    with pytest.raises(PortError, match=r"could not write file/a"):
        store.write("file/a", b"1")
    assert store.list() == ["file"]
