"""Hashes of values by their content: equal content, equal hash, in every process."""

from __future__ import annotations

import copyreg
import enum
import hashlib
import os
import pickle
import struct
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from crucible_kitchen.errors import CrucibleError


class CannotHash(CrucibleError):
    """The content of a value cannot be told."""


Code = Callable[["Content", Any], None]


class Content:
    """Adds values to one hash.

    Values are told apart by type: ``1``, ``True`` and ``1.0`` differ. The order of a dict counts,
    that of a set does not; whether equal parts are one object does not count either. Functions and
    classes are added by their code.

    Args:
        code: adds a function, a class or a module.
    """

    def __init__(self, code: Code) -> None:
        self._hash = _new()
        self._code = code
        self._digests: dict[int, bytes] = {}
        self._inside: dict[int, int] = {}  # what is being added, and how deep it stands
        self._lowest = 0
        self._numbers: dict[int, int] = {}
        self._codes: list[Any] = []
        self._alive: list[Any] = []  # so that no id comes twice

    def hexdigest(self) -> str:
        """The hash of everything; nothing can be added behind it."""
        # One after the other and not inside one another: code goes in circles.
        for value in self._codes:
            self._code(self, value)
        return str(self._hash.hexdigest())

    def raw(self, *parts: str | bytes) -> None:
        """Add texts and bytes, each with its length."""
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            self._hash.update(struct.pack("<q", len(data)))
            self._hash.update(data)

    def add(self, value: Any) -> None:
        """Add a value with all that is in it.

        Raises:
            CannotHash: something in it has no content that can be told, such as an open file.
        """
        kind = type(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            self.raw(kind.__name__, plain(value))
        elif isinstance(value, (type, *_CODE)):
            if id(value) not in self._numbers:
                self._numbers[id(value)] = len(self._codes)
                self._codes.append(value)
            self.raw("code", str(self._numbers[id(value)]))
        else:
            self.raw(self._digest(value, kind))

    def _digest(self, value: Any, kind: type) -> bytes:
        """The hash of one compound value, made once."""
        known = self._digests.get(id(value))
        depth = len(self._inside)
        if known is not None:
            return known
        if id(value) in self._inside:
            self._lowest = min(self._lowest, self._inside[id(value)])
            return f"inside {depth - self._inside[id(value)]}".encode()
        outer, outer_lowest = self._hash, self._lowest
        self._hash, self._lowest, self._inside[id(value)] = _new(), depth, depth
        self._alive.append(value)
        try:
            self._compound(value, kind)
            digest: bytes = self._hash.digest()
            if self._lowest >= depth:  # it holds nothing that it stands in itself
                self._digests[id(value)] = digest
        finally:
            del self._inside[id(value)]
            self._hash, self._lowest = outer, min(outer_lowest, self._lowest)
        return digest

    def each(self, name: str, values: Iterable[Any]) -> None:
        """Add values, and how many they are."""
        listed = list(values)
        self.raw(name, str(len(listed)))
        for value in listed:
            self.add(value)

    def _compound(self, value: Any, kind: type) -> None:
        if kind in (list, tuple):
            self.each(kind.__name__, value)
        elif kind is dict:
            self.each("dict", (part for pair in value.items() for part in pair))
        elif kind in (set, frozenset):
            self._unordered(kind.__name__, value)
        elif isinstance(value, enum.Enum):
            self.add(kind)
            self.raw("member", value.name)
        elif isinstance(value, os.PathLike):
            self.raw("path", os.fspath(value))
        elif _is_array(value):
            self._array(value)
        else:
            self._object(value)

    def _unordered(self, name: str, values: Iterable[Any]) -> None:
        outer, digests = self._hash, []
        for value in values:
            self._hash = _new()
            self.add(value)
            digests.append(self._hash.digest())
        self._hash = outer
        self.raw(name, *sorted(digests))

    def _array(self, value: Any) -> None:
        if type(value).__module__.startswith("torch"):
            torch: Any = sys.modules["torch"]  # whoever made the tensor has imported it
            tensor = value.detach().cpu().contiguous()
            self.raw("tensor", str(value.dtype), str(tuple(value.shape)))
            # As bytes: numpy knows no bfloat16.
            self.raw(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif value.dtype.hasobject:
            self.raw("array", str(value.shape))
            self.each("objects", value.ravel().tolist())
        else:
            self.raw("array", str(value.dtype), str(value.shape), value.tobytes())

    def _object(self, value: Any) -> None:
        """An object by what pickle would write of it: its class, and what it is made again from."""
        if isinstance(value, _NEVER):
            raise CannotHash(f"a {type(value).__name__} has no content that a key could tell")
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except (TypeError, pickle.PicklingError, AttributeError) as error:
            raise CannotHash(f"a {type(value).__name__}: {error}") from error
        if isinstance(reduced, str):
            self.raw("name", type(value).__module__, reduced)
            return
        self.add(type(value))
        made, given, *rest = reduced
        self.add(made)
        self.add(given)
        for part in rest:  # state, items, pairs
            self.add(list(part) if isinstance(part, Iterator) else part)


def _new() -> Any:
    return hashlib.blake2b(digest_size=20)


_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    types.CodeType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
    staticmethod,
    classmethod,
    property,
)
_NEVER = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_PLAIN: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"",
    type(...): lambda value: b"",
    type(NotImplemented): lambda value: b"",
    bool: lambda value: b"1" if value else b"0",
    int: lambda value: str(value).encode(),
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: value,
}


def _is_array(value: Any) -> bool:
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    # What has not been imported has no values.
    return (numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic))) or (
        torch is not None and isinstance(value, torch.Tensor)
    )
