"""`TensorData`: a small immutable array that crosses a port's border, in bytes, numpy or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .conversion import (
    as_array,
    bfloat16_to_float32,
    checked_shape,
    converted,
    dtype_name,
    from_bytes,
)

if TYPE_CHECKING:
    import torch


class TensorData:
    """An immutable array of one of eight dtypes; it owns its elements and can be hashed.

    Args:
        data: little-endian bytes, a list (nested for more dimensions), a number, a numpy array or
            a torch tensor (any device; its values are copied).
        dtype: ``int32|s32|int64|s64|float32|f32|float16|f16|bfloat16|bf16|uint8|u8|uint32|u32|
            bool``. Bytes need one. Without one, an array keeps its own, whole numbers become
            int64 and other numbers float32; float64 always becomes float32, as in torch.
        shape: sizes; without it, the data's own, and one dimension for bytes.

    Raises:
        TypeError: data of a kind not listed above, or bytes without a dtype.
        ValueError: an unknown dtype, sizes that do not match, or values the dtype cannot hold.
    """

    __slots__ = ("_array", "_dtype")
    _array: npt.NDArray[Any]
    _dtype: str

    def __init__(self, data: Any, dtype: str | None = None, shape: Sequence[int] | None = None):
        if dtype is not None:
            dtype = dtype_name(dtype)
        if isinstance(data, TensorData):
            array, name = data._array, data._dtype
            if dtype is not None and dtype != name:
                array, name = converted(array, name, dtype)
        elif isinstance(data, bytes | bytearray | memoryview):
            array, name = from_bytes(bytes(data), dtype)
        else:
            array, name = converted(*as_array(data), dtype)
        array.flags.writeable = False
        if shape is not None:
            array = array.reshape(checked_shape(shape, array.size))
        object.__setattr__(self, "_array", array)
        object.__setattr__(self, "_dtype", name)

    @classmethod
    def coerce(cls, value: Any, dtype: str | None = None) -> TensorData:
        """`value` as a `TensorData` of `dtype`; a mapping gives the constructor's arguments.

        Raises:
            TypeError, ValueError: as the constructor, or unknown keys in the mapping.
        """
        if isinstance(value, Mapping):
            unknown = set(value) - {"data", "dtype", "shape"}
            if unknown or "data" not in value:
                raise ValueError(
                    f"TensorData: mapping must have data and may have dtype, shape; "
                    f"got {sorted(map(str, value))}"
                )
            value = cls(**value)
        if isinstance(value, cls) and (dtype is None or dtype_name(dtype) == value._dtype):
            return value
        return cls(value, dtype)

    @property
    def dtype(self) -> str:
        """The dtype's full name, such as ``int64``."""
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first; empty for a single number."""
        return self._array.shape

    @property
    def size(self) -> int:
        """How many elements there are."""
        return int(self._array.size)

    @property
    def data(self) -> bytes:
        """The elements as little-endian bytes, whatever they were made from."""
        return self.to_bytes()

    def numpy(self) -> npt.NDArray[Any]:
        """A read-only array without a copy; bfloat16, which numpy lacks, comes as exact float32."""
        if self._dtype != "bfloat16":
            return self._array
        widened = bfloat16_to_float32(self._array)
        widened.flags.writeable = False
        return widened

    def torch(self) -> torch.Tensor:
        """A fresh tensor on the CPU, of the same dtype (uint32 included)."""
        import torch

        if self._dtype == "bfloat16":
            return torch.from_numpy(self._array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(self._array.copy())

    def tolist(self) -> Any:
        """Python numbers, nested by dimension."""
        return self.numpy().tolist()

    def to_bytes(self) -> bytes:
        """Little-endian bytes, row by row."""
        return self._array.astype(self._array.dtype.newbyteorder("<"), copy=False).tobytes()

    def to_dict(self) -> dict[str, Any]:
        """``{"data": list, "dtype": name, "shape": list}``, plain enough for JSON."""
        flat = self.numpy().reshape(-1).tolist()
        return {"data": flat, "dtype": self._dtype, "shape": list(self.shape)}

    def __len__(self) -> int:
        return len(self._array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return (self._dtype, self.shape) == (
            other._dtype,
            other.shape,
        ) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash((self._dtype, self.shape, self.to_bytes()))

    def __repr__(self) -> str:
        shown = self.numpy().reshape(-1)[:6].tolist()
        more = ", ..." if self.size > len(shown) else ""
        inside = ", ".join(
            f"{value:g}" if isinstance(value, float) else str(value) for value in shown
        )
        return f"TensorData([{inside}{more}], dtype={self._dtype!r}, shape={list(self.shape)})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"TensorData: {name} cannot be set, a TensorData is a value")

    def __reduce__(self) -> tuple[type[TensorData], tuple[bytes, str, tuple[int, ...]]]:
        return TensorData, (self.to_bytes(), self._dtype, self.shape)
