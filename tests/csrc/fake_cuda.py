"""CUDA without a GPU: tensors that say that they are on a device, and a driver that writes a log.

Only for a process of its own that has no torch in it: the driver is found by its library's name.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)
from typing import Any, ClassVar

DTYPES = {"bf16": (4, 16), "fp16": (2, 16), "fp32": (2, 32), "i64": (0, 64)}
STREAM = 7


class _DLTensor(Structure):
    _fields_: ClassVar[Any] = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


_LOOK = CFUNCTYPE(c_int32, py_object, POINTER(_DLTensor))
_STREAM_OF = CFUNCTYPE(c_int32, c_int32, c_int32, POINTER(c_void_p))


class _Exchange(Structure):
    """DLPackExchangeAPI."""

    _fields_: ClassVar[Any] = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("previous", c_void_p),
        ("allocate", c_void_p),
        ("from_object", c_void_p),
        ("to_object", c_void_p),
        ("look", _LOOK),
        ("stream_of", _STREAM_OF),
    ]


class Tensor:
    """One element at an address that nobody reads, on a CUDA device."""

    __dlpack_c_exchange_api__: ClassVar[Any]

    def __init__(self, dtype: str, address: int, device: int = 0, kind: int = 2) -> None:
        self.dtype, self.address, self.device, self.kind = dtype, address, device, kind
        self.shape = (c_int64 * 1)(1)


def _look(tensor: Tensor, out: Any) -> int:
    code, bits = DTYPES[tensor.dtype]
    out[0] = _DLTensor(
        tensor.address, tensor.kind, tensor.device, 1, code, bits, 1, tensor.shape, None, 0
    )
    return 0


def _stream_of(kind: int, device: int, out: Any) -> int:
    out[0] = STREAM + device
    return 0


_API = _Exchange(1, 3, None, None, None, None, _LOOK(_look), _STREAM_OF(_stream_of))
_NEW = ctypes.pythonapi.PyCapsule_New
_NEW.restype, _NEW.argtypes = py_object, [c_void_p, ctypes.c_char_p, c_void_p]
_NAME = b"dlpack_exchange_api"  # the capsule does not copy it
Tensor.__dlpack_c_exchange_api__ = _NEW(ctypes.addressof(_API), _NAME, None)


class Driver:
    """The stand-in, before anything asks for a driver."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        self.library.fake_log.restype = ctypes.c_char_p

    def log(self) -> list[str]:
        """What was called since the last time."""
        lines = self.library.fake_log().decode().splitlines()
        self.library.fake_forget()
        return lines
