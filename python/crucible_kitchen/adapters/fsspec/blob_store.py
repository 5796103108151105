"""Blobs in whatever `fsspec` reaches, below one URL."""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import ports
from crucible_kitchen.adapters.blobs import (
    blob_bytes,
    check_chunk_size,
    checked_path,
    no_such_blob,
)
from crucible_kitchen.adapters.disk import TEMPORARY_SUFFIX, write_atomically
from crucible_kitchen.adapters.foreign import library, speaking_our_errors, without_secrets
from crucible_kitchen.engine.redact import secrets_in
from crucible_kitchen.errors import ConfigError, PortError

# How alike two names are, in [0, 1], where one is the other with a letter or two wrong.
_A_SLIP: Final = 0.8
# Errors of the libraries below fsspec that are no OSError; a library that is not loaded has raised
# none. Names as module -> classes.
_FOREIGN: Final = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "paramiko": ("SSHException",),
}


class BlobStore(ports.BlobStore):
    """Keeps each blob under its path below a URL, such as ``s3://bucket/runs``.

    A blob is gathered first and put second, in one request on an object store and by a rename on a
    local disk, so a reader sees the old or the new one.

    Args:
        url: the root: a protocol and a path. Anything but ``file`` and ``memory`` needs that
            protocol's package, which `fsspec` names when it lacks it (``s3fs``, ``gcsfs``, ...).
        options: what the protocol takes, such as ``endpoint_url``. Credentials are best left to
            the environment; given here, they are in no message.
    Raises:
        ConfigError: an option that is spelt nearly as one that the protocol takes.
        PortError: no such protocol, its package is missing, or it does not take the options.
    """

    def __init__(self, url: str, **options: Any) -> None:
        fsspec = library("fsspec", port="blob_store", extra="fsspec")
        self._shown = without_secrets(url)
        self._secrets = tuple(secrets_in({"url": url, **options}))
        # Another process may write there, so what a listing said before is not believed.
        fresh = {"use_listings_cache": False, "skip_instance_cache": True}
        with self._errors("open the store"):
            try:
                self._files, root = fsspec.core.url_to_fs(url, **{**fresh, **options})
            except ImportError as error:
                raise PortError(f"blob_store: {self._shown} needs a package: {error}") from error
            except TypeError as error:
                raise PortError(
                    f"blob_store: {self._shown} does not take these options: {error}"
                ) from error
        _check_spelling(type(self._files), options)
        self._root = root.rstrip("/")
        self._on_disk = "file" in _protocols(self._files)

    def read(self, path: str) -> bytes:
        """The whole blob."""
        full = self._full(path)
        with self._errors(f"read {path}"):
            try:
                return bytes(self._files.cat_file(full))
            except FileNotFoundError:
                raise no_such_blob(path) from None

    def stream(self, path: str, chunk_size: int = 1 << 20) -> Iterator[bytes]:
        """The blob in pieces, fetched as they are asked for."""
        check_chunk_size(chunk_size)
        full = self._full(path)
        with self._errors(f"read {path}"):
            if not self._is_blob(full):
                raise no_such_blob(path)
        return self._pieces(path, full, chunk_size)

    def _pieces(self, path: str, full: str, chunk_size: int) -> Iterator[bytes]:
        with self._errors(f"read {path}"), self._files.open(full, "rb") as opened:
            while piece := opened.read(chunk_size):
                yield piece

    def write(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Put a blob, after all of its pieces have come."""
        full = self._full(path)
        if self._on_disk:
            with self._errors(f"write {path}"):
                write_atomically(Path(full), blob_bytes(data))
        elif isinstance(data, bytes):
            with self._errors(f"write {path}"):
                self._files.pipe_file(full, data)
        else:
            self._put(path, full, blob_bytes(data))

    def _put(self, path: str, full: str, pieces: Iterator[bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            gathered = Path(folder) / "blob"
            # What the caller's own iterator raises is none of this store's errors.
            with gathered.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
            with self._errors(f"write {path}"):
                self._files.put_file(str(gathered), full)

    def exists(self, path: str) -> bool:
        """Whether there is such a blob."""
        full = self._full(path)
        with self._errors(f"look for {path}"):
            return self._is_blob(full)

    def list(self, prefix: str = "") -> list[str]:
        """Paths that begin with `prefix`, sorted."""
        below = f"{self._root}/{prefix.rpartition('/')[0]}".rstrip("/")
        start = f"{self._root}/"
        with self._errors(f"list {prefix!r}"):
            found = [name.removeprefix(start) for name in self._files.find(below)]
        return sorted(
            path
            for path in found
            if path.startswith(prefix) and not (self._on_disk and path.endswith(TEMPORARY_SUFFIX))
        )

    def delete(self, path: str) -> None:
        """Remove a blob, if it is there."""
        full = self._full(path)
        with self._errors(f"delete {path}"):
            try:
                self._files.rm_file(full)
            except FileNotFoundError:
                return

    def _is_blob(self, full: str) -> bool:
        # The library's own isfile() says no where a server could not be asked.
        try:
            return bool(self._files.info(full)["type"] == "file")
        except FileNotFoundError:
            return False

    def _full(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        return speaking_our_errors(
            "blob_store", f"{doing} in {self._shown}", _foreign, *self._secrets
        )


def _check_spelling(kind: type, options: Mapping[str, Any]) -> None:
    """Refuse slips: most protocols pass on, or pass over, an option that they do not know.

    Raises:
        ConfigError: an option that is unknown and nearly a known one.
    """
    made = (base.__dict__["__init__"] for base in kind.__mro__[:-1] if "__init__" in base.__dict__)
    known = {name for one in made for name in inspect.signature(one).parameters}
    for name in options:
        near = get_close_matches(name, known, n=1, cutoff=_A_SLIP)
        if name not in known and near:
            raise ConfigError(
                f"blob_store: {kind.__name__} has no option {name!r}; did you mean {near[0]!r}?"
            )


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _foreign() -> tuple[type[Exception], ...]:
    loaded = [
        getattr(sys.modules[module], name)
        for module, names in _FOREIGN.items()
        if module in sys.modules
        for name in names
    ]
    return (OSError, ValueError, NotImplementedError, shutil.Error, *loaded)
