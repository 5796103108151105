"""Blobs as files below one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from crucible_kitchen import ports
from crucible_kitchen.adapters.blobs import (
    blob_bytes,
    check_chunk_size,
    checked_path,
    no_such_blob,
)
from crucible_kitchen.adapters.disk import (
    TEMPORARY_SUFFIX,
    speaking_our_errors,
    write_atomically,
)
from crucible_kitchen.errors import PortError


class BlobStore(ports.BlobStore):
    """Keeps each blob as the file of its path; nothing outside the root is read or written.

    Args:
        root: the folder, made at the first write.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root).resolve()

    def read(self, path: str) -> bytes:
        """The whole blob."""
        with speaking_our_errors("blob_store", f"read {path}"):
            return self._existing(path).read_bytes()

    def stream(self, path: str, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """The blob in pieces, read as they are asked for."""
        check_chunk_size(chunk_size)
        return _pieces(self._existing(path), path, chunk_size)

    def write(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Put a blob, by a temporary file beside it."""
        with speaking_our_errors("blob_store", f"write {path}"):
            write_atomically(self._file(path), blob_bytes(data))

    def exists(self, path: str) -> bool:
        """Whether there is such a blob."""
        return self._file(path).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        with speaking_our_errors("blob_store", f"list {prefix!r}"):
            found = (
                file.relative_to(self._root).as_posix()
                for file in self._root.rglob("*")
                if file.is_file() and not file.name.endswith(TEMPORARY_SUFFIX)
            )
            return sorted(path for path in found if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a blob, if it is there."""
        with speaking_our_errors("blob_store", f"delete {path}"):
            self._file(path).unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        file = self._root / checked_path(path)
        # A link inside the root may still lead out of it.
        if not file.resolve().is_relative_to(self._root):
            raise PortError(f"blob_store: path must stay inside {self._root}, got {path!r}")
        if file.name.endswith(TEMPORARY_SUFFIX):
            raise PortError(f"blob_store: path must not end in {TEMPORARY_SUFFIX}, got {path!r}")
        return file

    def _existing(self, path: str) -> Path:
        file = self._file(path)
        if not file.is_file():
            raise no_such_blob(path)
        return file


def _pieces(file: Path, path: str, chunk_size: int) -> Iterator[bytes]:
    with speaking_our_errors("blob_store", f"read {path}"), file.open("rb") as opened:
        while piece := opened.read(chunk_size):
            yield piece
