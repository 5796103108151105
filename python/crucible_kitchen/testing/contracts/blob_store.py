"""The contract of `BlobStore`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import BlobStore

from .base import PortContract


class BlobStoreContract(PortContract):
    """The `adapter` is an empty store."""

    port = BlobStore

    def test_gives_back_what_was_written(self, adapter: BlobStore) -> None:
        data = bytes(range(256)) * 5
        adapter.write("a/b.bin", data)
        assert adapter.read("a/b.bin") == data
        assert adapter.exists("a/b.bin")

    def test_writes_pieces_and_streams_pieces(self, adapter: BlobStore) -> None:
        adapter.write("pieces", iter([b"abc", b"", b"defg"]))
        got = list(adapter.stream("pieces", chunk_size=3))
        assert b"".join(got) == b"abcdefg"
        assert max(map(len, got)) <= 3

    def test_keeps_an_empty_blob(self, adapter: BlobStore) -> None:
        adapter.write("empty", b"")
        assert adapter.read("empty") == b""
        assert adapter.exists("empty")

    def test_writes_over_an_old_blob(self, adapter: BlobStore) -> None:
        adapter.write("x", b"a long first version")
        adapter.write("x", b"short")
        assert adapter.read("x") == b"short"

    def test_lists_by_prefix_in_order(self, adapter: BlobStore) -> None:
        for path in ("b/2", "a/1", "b/10", "bc"):
            adapter.write(path, b"x")
        assert adapter.list() == ["a/1", "b/10", "b/2", "bc"]
        assert adapter.list("b/") == ["b/10", "b/2"]
        assert adapter.list("none") == []

    def test_deletes_and_deletes_again(self, adapter: BlobStore) -> None:
        adapter.write("x", b"1")
        adapter.delete("x")
        adapter.delete("x")
        assert not adapter.exists("x")
        assert adapter.list() == []

    def test_reading_what_is_not_there_names_it(self, adapter: BlobStore) -> None:
        with pytest.raises(PortError, match="missing/one"):
            adapter.read("missing/one")
        with pytest.raises(PortError, match="missing/one"):
            adapter.stream("missing/one")

    @pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../../x", "a//b", ".", "a/"])
    def test_refuses_paths_outside_its_root(self, adapter: BlobStore, path: str) -> None:
        for attempt in (adapter.read, adapter.exists, adapter.delete, adapter.stream):
            with pytest.raises(PortError, match="path"):
                attempt(path)
        with pytest.raises(PortError, match="path"):
            adapter.write(path, b"x")

    def test_refuses_text(self, adapter: BlobStore) -> None:
        with pytest.raises(TypeError, match="bytes"):
            adapter.write("x", "text")  # type: ignore[arg-type]

    def test_a_write_that_fails_leaves_the_old_blob(self, adapter: BlobStore) -> None:
        def broken() -> Iterator[bytes]:
            yield b"half"
            raise LookupError("the producer failed")

        adapter.write("x", b"old")
        with pytest.raises(LookupError):
            adapter.write("x", broken())
        with pytest.raises(LookupError):
            adapter.write("new", broken())
        assert adapter.read("x") == b"old"
        assert adapter.list() == ["x"]
