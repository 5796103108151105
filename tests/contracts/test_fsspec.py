"""Blobs through `fsspec` keep the port's contract: in memory, on disk, and on an S3 server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.fsspec import BlobStore
from crucible_kitchen.errors import ConfigError, PortError
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


def test_a_wrong_option_is_told_with_a_suggestion(tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="pip install 'crucible-kitchen[services]'")
    with pytest.raises(ConfigError, match="no option 'endpoint_urll'; did you mean 'endpoint_url'"):
        BlobStore("s3://kitchen/x", endpoint_urll="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="did you mean 'auto_mkdir'"):
        BlobStore(f"file://{tmp_path}", auto_mkdr=True)


def test_a_key_that_is_refused_is_told_without_it(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # From now on moto asks whose key it is, and nobody has one.
    monkeypatch.setattr("moto.core.authorization.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    store = BlobStore("s3://kitchen/x", **s3)
    for attempt in (store.read, store.delete, store.list, lambda path: store.write(path, b"1")):
        with pytest.raises(PortError, match=r"could not .* in s3://kitchen/x: ") as caught:
            attempt("a")
        assert not re.search("topsecret|AKIATEST", str(caught.value))


def test_two_writers_of_one_blob_leave_one_of_theirs_whole(s3: dict[str, Any]) -> None:
    stores = [BlobStore("s3://kitchen/both", **s3) for _ in range(2)]
    sizes = {bytes([65 + number]): 70_000 + number for number in range(2)}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            written = [
                pool.submit(store.write, "x", letter * size)
                for store, (letter, size) in zip(stores, sizes.items(), strict=True)
            ]
            for one in written:
                one.result()
            data = stores[0].read("x")
            assert data == data[:1] * sizes[data[:1]]
