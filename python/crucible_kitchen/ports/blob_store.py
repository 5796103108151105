"""The `blob_store` port: bytes by path."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

from .base import Port


class BlobStore(Port):
    """Keeps whole blobs. Paths are relative, with ``/`` between parts and no ``..``."""

    name: ClassVar[str] = "blob_store"
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The whole blob.

        Raises:
            PortError: there is none, or it cannot be read.
        """

    @abstractmethod
    def stream(self, path: str, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """The blob in pieces of at most `chunk_size` bytes; errors as `read`, at the call."""

    @abstractmethod
    def write(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Put a blob, whole or in pieces, over one that may be there.

        A reader sees the old blob or the new one, never a part.

        Raises:
            TypeError: data that is not bytes.
            PortError: it cannot be written; the old blob is still there.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is such a blob."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Paths that begin with `prefix`, sorted."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a blob; one that is not there is no error, so that a retry is safe."""
