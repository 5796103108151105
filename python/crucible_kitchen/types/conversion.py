"""Plain data of any kind as numpy arrays of `TensorData`'s dtypes, exactly or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_ALIASES: Final[Mapping[str, str]] = {
    "s32": "int32",
    "s64": "int64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "u8": "uint8",
    "u32": "uint32",
}

# numpy has no bfloat16, so its elements are kept as the 16 bits they are.
_STORAGE: Final[Mapping[str, np.dtype[Any]]] = {
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "uint32": np.dtype(np.uint32),
    "bool": np.dtype(np.bool_),
}

# A dtype's own `name` is computed at each call, which costs more than copying a short array.
_NAMES: Final = {dtype: name for name, dtype in _STORAGE.items() if name != "bfloat16"}

DTYPES: Final[tuple[str, ...]] = tuple(_STORAGE)


def dtype_name(dtype: str) -> str:
    """The one name of a dtype: ``s64`` is ``int64``, ``bf16`` is ``bfloat16``.

    Raises:
        ValueError: no such dtype.
    """
    name = _ALIASES.get(dtype, dtype) if isinstance(dtype, str) else None
    if name not in _STORAGE:
        known = ", ".join((*DTYPES, *_ALIASES))
        raise ValueError(f"TensorData: dtype must be one of {known}, got {dtype!r}")
    return name


def from_bytes(data: bytes, dtype: str | None) -> tuple[npt.NDArray[Any], str]:
    """Little-endian bytes as a flat array of `dtype`, with the dtype's name."""
    if dtype is None:
        raise TypeError("TensorData: dtype must be given with bytes, got None")
    storage = _STORAGE[dtype]
    if len(data) % storage.itemsize:
        raise ValueError(
            f"TensorData: data must be a whole number of {dtype} elements of {storage.itemsize} "
            f"bytes, got {len(data)} bytes"
        )
    if dtype == "bool" and data.strip(b"\x00\x01"):
        raise ValueError("TensorData: data must be bytes 0 and 1 for dtype bool, got another byte")
    little = np.frombuffer(data, dtype=storage.newbyteorder("<"))
    return little.astype(storage, copy=False), dtype


def as_array(data: Any) -> tuple[npt.NDArray[Any], str]:
    """`data` as an array, with its dtype's own name (which may be one that only numpy has)."""
    if isinstance(data, np.ndarray):
        name = _NAMES.get(data.dtype) or data.dtype.name
        # ml_dtypes' bfloat16 is an extension type; its bits are all that is needed of it.
        return (data.view(np.uint16) if name == "bfloat16" else data), name
    if type(data).__module__.partition(".")[0] == "torch" and hasattr(data, "detach"):
        return _from_torch(data)
    if isinstance(data, str) or not isinstance(data, Sequence | int | float | np.generic):
        raise TypeError(
            "TensorData: data must be bytes, a list of numbers, a numpy array or a torch tensor, "
            f"got {type(data).__name__}"
        )
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:  # ragged nesting, an integer beyond 64 bits
        raise ValueError(f"TensorData: data must be a regular list of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"TensorData: data must hold numbers only, got a list with {_first_bad(data)}"
        )
    return array, array.dtype.name


def _first_bad(data: Any) -> str:
    while isinstance(data, Sequence) and not isinstance(data, str | bytes):
        bad = [item for item in data if not isinstance(item, int | float | np.generic)]
        if not bad:
            return "mixed values"
        data = bad[0]
    return repr(data)


def _from_torch(tensor: Any) -> tuple[npt.NDArray[Any], str]:
    tensor = tensor.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if name == "bfloat16":
        # Exact both ways: a bfloat16 is the upper half of a float32.
        widened: npt.NDArray[np.float32] = tensor.float().numpy()
        return (widened.view(np.uint32) >> np.uint32(16)).astype(np.uint16), name
    return tensor.numpy(), name


def converted(array: npt.NDArray[Any], have: str, want: str | None) -> tuple[npt.NDArray[Any], str]:
    """A copy of `array`, of dtype `have`, as dtype `want`; what does not fit is an error."""
    if want is None:
        want = "float32" if have == "float64" else have
        if want not in _STORAGE:
            raise ValueError(
                f"TensorData: dtype must be given for {have} data, one of {', '.join(DTYPES)}"
            )
    if have == want:
        return array.astype(_STORAGE[want], order="C"), want
    values = bfloat16_to_float32(array) if have == "bfloat16" else array
    try:
        with np.errstate(over="raise"):
            if want == "bfloat16":
                return _rounded_to_bfloat16(values.astype(np.float32, order="C")), want
            if want not in ("float32", "float16"):
                _check_whole_numbers(values, want)
            return values.astype(_STORAGE[want], order="C"), want
    except FloatingPointError:
        raise ValueError(f"TensorData: data must fit {want}, got values beyond its range") from None


def _check_whole_numbers(values: npt.NDArray[Any], want: str) -> None:
    """Refuse what `want`, an integer dtype or bool, cannot hold exactly."""
    if values.size == 0:
        return
    low, high = (0, 1) if want == "bool" else (np.iinfo(want).min, np.iinfo(want).max)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (np.trunc(values) == values)
        if not whole.all():
            raise ValueError(
                f"TensorData: data must be whole numbers for {want}, got {values[~whole].flat[0]}"
            )
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        bad = smallest if smallest < low else largest
        raise ValueError(f"TensorData: data must be in [{low}, {high}] for {want}, got {bad}")


def checked_shape(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """`shape` as a tuple of sizes that hold `size` elements."""
    try:
        sizes = tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        raise TypeError(f"TensorData: shape must be a list of sizes, got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"TensorData: shape must have no negative size, got {list(sizes)}")
    if math.prod(sizes) != size:
        raise ValueError(
            f"TensorData: shape must hold the data's {size} elements, got {list(sizes)} = "
            f"{math.prod(sizes)}"
        )
    return sizes


def _rounded_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even, as the hardware does, but never a number to infinity."""
    bits: npt.NDArray[np.uint32] = values.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    # Rounding could carry a NaN's payload into the sign, so a NaN keeps its upper half, made quiet.
    quiet = bits | np.uint32(0x0040_0000)
    half: npt.NDArray[Any] = np.where(np.isnan(values), quiet, rounded) >> np.uint32(16)
    infinite = (half & 0x7FFF) == 0x7F80
    if (infinite & np.isfinite(values)).any():
        raise FloatingPointError
    return half.astype(np.uint16)


def bfloat16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The numbers whose upper halves `bits` are; exact."""
    widened: npt.NDArray[np.uint32] = bits.astype(np.uint32) << np.uint32(16)
    return widened.view(np.float32)
