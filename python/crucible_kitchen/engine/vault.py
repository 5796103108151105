"""`Vault`: values of a run's state as JSON, as files named by their content, or by their adapter.

What is small and plain stands in the journal itself. The rest is pickled, and what is large goes
into a file whose name is its hash, so that equal values are kept once. A handle, such as a training
session, is saved by the adapter that it belongs to.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import pickle
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.ports import Port, Ports

from .small import MOST_INLINE, MOST_ITEMS, is_small

Coded = Any
"""JSON: a plain value as it is, or ``{"$pickle": base64}`` or ``{"$blob": hash}``."""
Held = int | str
"""What adapters hold and a stage may change: a handle, by its number, or all handles of a port."""

_PICKLE, _BLOB = "$pickle", "$blob"
_SWEEP_AFTER = 256


class CannotSave(CrucibleError):
    """A value cannot be written down."""


@dataclass
class _Handle:
    """A handle of an adapter.

    Args:
        saved: what its adapter gave when it was saved last; None before.
        folder: where it was saved last.
    """

    port: str
    value: Any
    saved: Any = None
    folder: str = ""


class Vault:
    """Writes down values and reads them back; used by one thread at a time.

    Args:
        folder: of the journal.
        ports: whose adapters save their own handles.
        fsync: wait until a file is on the disk before it counts.
    """

    def __init__(self, folder: Path, ports: Ports, *, fsync: bool) -> None:
        self._blobs, self._handles_in = folder / "blobs", folder / "handles"
        self._ports, self._fsync = ports, fsync
        self._there = set(os.listdir(self._blobs)) if self._blobs.is_dir() else set()
        self._handles: dict[int, _Handle] = {}  # not every number comes to be saved
        self._unsaved: set[int] = set()
        self._named: set[int] = set()  # by the values encoded since `new_handles` was asked
        self._since_sweep = 0
        self.keepers = tuple(name for name in ports if ports[name].handles)
        """Ports whose adapters keep handles."""
        self.changing = tuple(name for name in self.keepers if ports[name].handles_change)
        """Those of them whose handles a stage changes that uses them."""
        self._kinds = tuple({kind for name in self.keepers for kind in ports[name].handles})

    @property
    def has_grown(self) -> bool:
        """Whether it is time to `sweep`."""
        return self._since_sweep >= _SWEEP_AFTER

    def encode(self, value: Any) -> Coded:
        """A value as JSON.

        Raises:
            CannotSave: it cannot be pickled.
        """
        if is_small(value):
            return value
        data = self._pickle(value)
        if len(data) <= MOST_INLINE:
            return {_PICKLE: base64.b64encode(data).decode()}
        return {_BLOB: self._keep(data)}

    def decode(self, coded: Coded) -> Any:
        """The value that was encoded.

        Raises:
            CrucibleError: its file is gone or damaged, or what it is made of is.
        """
        if not isinstance(coded, dict) or not (_PICKLE in coded or _BLOB in coded):
            return coded
        data = base64.b64decode(coded[_PICKLE]) if _PICKLE in coded else self._read(coded[_BLOB])
        unpickler = _Unpickler(io.BytesIO(data), self)
        try:
            return unpickler.load()
        except (pickle.UnpicklingError, AttributeError, ImportError, EOFError, TypeError) as error:
            raise CrucibleError(f"journal: a value cannot be read back: {error}") from error

    def changed_by(self, port: str, values: Iterable[Any], makes: bool) -> set[Held]:
        """What a stage may change that uses a port and is handed some values.

        An adapter that takes one stage at a time is changed as a whole. In one that takes several,
        a stage changes the handles that it is handed. Where it is handed none, it may change all of
        them, unless it `makes` a handle of its own.
        """
        if not self._ports[port].concurrent:
            return {port}
        handed = {self.number_of(one) for value in values for one in _parts(value)}
        mine: set[Held] = {n for n, handle in self._handles.items() if handle.port == port}
        return (mine & handed) or (set() if makes else mine)

    def new_handles(self) -> set[int]:
        """Handles that were never saved, and are in what was encoded since this was asked last."""
        new, self._named = self._named & self._unsaved, set()
        return new

    def held(self, number: int) -> Held:
        """What a stage changes that changes this handle, see `changed_by`."""
        port = self._handles[number].port
        return number if self._ports[port].concurrent else port

    def is_handle(self, kind: type) -> bool:
        """Whether values of a class may be handles."""
        return issubclass(kind, self._kinds)

    def save_handles(self, held: Iterable[Held]) -> dict[str, Any] | None:
        """Have adapters save handles as they are now, where they are still in use.

        Returns:
            What was saved, by the handle's number; None where an adapter cannot save one now.
        """
        wanted = set(held)
        saved: dict[str, Any] = {}
        for number, handle in self._handles.items():
            if not wanted & {number, handle.port} or not self._owner(handle.value):
                continue
            folder = f"{number}-{secrets.token_hex(4)}"
            self._handles_in.mkdir(parents=True, exist_ok=True)
            given = self._ports[handle.port].save_value(handle.value, self._handles_in / folder)
            if given is None:
                return None
            saved[str(number)] = {"port": handle.port, "saved": given, "folder": folder}
        return saved

    def saved(self, handles: Mapping[str, Any]) -> None:
        """Take note that the journal names what `save_handles` gave; older files can go."""
        for number, one in handles.items():
            handle = self._handles[int(number)]
            if handle.folder:
                shutil.rmtree(self._handles_in / handle.folder, ignore_errors=True)
            handle.saved, handle.folder = one["saved"], one["folder"]
            self._unsaved.discard(int(number))

    def restore(self, handles: Mapping[str, Any]) -> None:
        """Know the handles that the journal names; each is made again when it is first needed."""
        for number in sorted(map(int, handles)):
            one = handles[str(number)]
            self._handles[number] = _Handle(one["port"], None, one["saved"], one["folder"])
        for folder in os.listdir(self._handles_in) if self._handles_in.is_dir() else ():
            if folder not in {handle.folder for handle in self._handles.values()}:
                shutil.rmtree(self._handles_in / folder, ignore_errors=True)

    def sweep(self, wanted: Iterable[Coded]) -> None:
        """Remove the files that nothing names any more."""
        self._since_sweep = 0
        named = {one[_BLOB] for one in wanted if isinstance(one, dict) and _BLOB in one}
        for name in self._there - named:
            (self._blobs / name).unlink(missing_ok=True)
        self._there &= named

    def number_of(self, value: Any) -> int | None:
        """The number of a handle, a new one if need be; None for what no adapter keeps."""
        if not isinstance(value, self._kinds):
            return None
        every = self._handles.items()
        known = next((number for number, handle in every if handle.value is value), None)
        if known is not None and known not in self._unsaved:
            return known
        owner = self._owner(value)
        if owner is None:
            return None
        if known is None:
            known = max(self._handles, default=-1) + 1
            self._handles[known] = _Handle(owner, value)
            self._unsaved.add(known)
        return known

    def handle(self, number: int) -> Any:
        """The handle of a number, made again by its adapter."""
        handle = self._handles[number]
        if handle.value is None:
            port: Port = self._ports[handle.port]
            handle.value = port.load_value(handle.saved, self._handles_in / handle.folder)
        return handle.value

    def _owner(self, value: Any) -> str | None:
        return next((name for name in self.keepers if self._ports[name].owns(value)), None)

    def _pickle(self, value: Any) -> bytes:
        try:
            if not self._kinds:
                return pickle.dumps(value, protocol=5)
            file = io.BytesIO()
            _Pickler(file, self).dump(value)
            return file.getvalue()
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise CannotSave(str(error)) from error

    def _keep(self, data: bytes) -> str:
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        if name not in self._there:
            self._blobs.mkdir(parents=True, exist_ok=True)
            partial = self._blobs / f".{name}.{secrets.token_hex(4)}"
            with partial.open("xb") as file:
                file.write(data)
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(self._blobs / name)
            self._there.add(name)
            self._since_sweep += 1
        return name

    def _read(self, name: str) -> bytes:
        path = self._blobs / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CrucibleError(f"journal: could not read {path}: {error.strerror}") from error
        if hashlib.blake2b(data, digest_size=16).hexdigest() != name:
            raise CrucibleError(f"journal: {path} is damaged: its content is not what was written")
        return data


class _Pickler(pickle.Pickler):
    """Pickles all but handles, which it names."""

    def __init__(self, file: io.BytesIO, vault: Vault) -> None:
        super().__init__(file, protocol=5)
        self._vault = vault

    def persistent_id(self, value: Any) -> int | None:
        number = self._vault.number_of(value)
        if number is not None:
            self._vault._named.add(number)
        return number


class _Unpickler(pickle.Unpickler):
    """Reads back what `_Pickler` wrote."""

    def __init__(self, file: io.BytesIO, vault: Vault) -> None:
        super().__init__(file)
        self._vault = vault

    def persistent_load(self, number: Any) -> Any:
        return self._vault.handle(number)


def _parts(value: Any) -> Iterable[Any]:
    """A value, or what is in a small container."""
    if not isinstance(value, (list, tuple, dict)) or len(value) > MOST_ITEMS:
        return (value,)
    return value.values() if isinstance(value, dict) else value
