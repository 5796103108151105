"""What blob stores share: which paths and data they take, and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crucible_kitchen.errors import PortError


def checked_path(path: str) -> str:
    """A blob's path, after checking that it names something below a store's root.

    Raises:
        PortError: it is empty or absolute, or has an empty part, ``.`` or ``..``.
    """
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise PortError(
            f"blob_store: path must be relative, with / between parts and no .., got {path!r}"
        )
    return path


def blob_bytes(data: bytes | Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of data to write.

    Raises:
        TypeError: a piece is not bytes.
    """
    for piece in (data,) if isinstance(data, bytes | bytearray | memoryview | str) else data:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"blob_store: data must be bytes, got {type(piece).__name__}")
        yield bytes(piece)


def pieces(data: bytes, chunk_size: int) -> Iterator[bytes]:
    """`data` in pieces of `chunk_size`.

    Raises:
        ValueError: a size below 1.
    """
    check_chunk_size(chunk_size)
    return (data[i : i + chunk_size] for i in range(0, len(data), chunk_size))


def check_chunk_size(chunk_size: int) -> None:
    """Refuse a size below 1.

    Raises:
        ValueError: it is.
    """
    if chunk_size < 1:
        raise ValueError(f"blob_store: chunk_size must be at least 1, got {chunk_size}")


def no_such_blob(path: str) -> PortError:
    """The error for a blob that is not there."""
    return PortError(f"blob_store: no blob at {path!r}")
