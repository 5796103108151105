"""Blobs in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crucible_kitchen import ports
from crucible_kitchen.adapters.blobs import blob_bytes, checked_path, no_such_blob, pieces


class BlobStore(ports.BlobStore):
    """Keeps blobs for as long as the instance lives."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        """The whole blob."""
        try:
            return self._blobs[checked_path(path)]
        except KeyError:
            raise no_such_blob(path) from None

    def stream(self, path: str, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """The blob in pieces."""
        return pieces(self.read(path), chunk_size)

    def write(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Put a blob."""
        self._blobs[checked_path(path)] = b"".join(blob_bytes(data))

    def exists(self, path: str) -> bool:
        """Whether there is such a blob."""
        return checked_path(path) in self._blobs

    def list(self, prefix: str = "") -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        return sorted(path for path in self._blobs if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a blob, if it is there."""
        self._blobs.pop(checked_path(path), None)
