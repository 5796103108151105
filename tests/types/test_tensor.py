"""`TensorData`: what it takes, what it refuses, and what comes out."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crucible_kitchen.types import DTYPES, TensorData

NUMPY_DTYPES = [name for name in DTYPES if name != "bfloat16"]


def test_the_guides_spelling_of_labels() -> None:
    tensor = TensorData(data=struct.pack("<4i", 1, -100, 3, 4), shape=[4], dtype="s32")
    assert tensor.dtype == "int32"
    assert tensor.shape == (4,)
    assert tensor.tolist() == [1, -100, 3, 4]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("s32", "int32"),
        ("s64", "int64"),
        ("f32", "float32"),
        ("f16", "float16"),
        ("bf16", "bfloat16"),
        ("u8", "uint8"),
        ("u32", "uint32"),
        ("bool", "bool"),
    ],
)
def test_aliases_name_one_dtype(alias: str, name: str) -> None:
    assert TensorData([0, 1], alias) == TensorData([0, 1], name)
    assert TensorData([0, 1], alias).dtype == name


@given(st.sampled_from(NUMPY_DTYPES), st.data())
def test_numpy_survives_the_trip_through_bytes(name: str, data: Any) -> None:
    shape = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    array = data.draw(hnp.arrays(name, shape))
    tensor = TensorData(array)
    again = TensorData(tensor.to_bytes(), tensor.dtype, tensor.shape)
    assert again == tensor
    np.testing.assert_array_equal(again.numpy(), array)
    assert again.numpy().dtype == array.dtype


@pytest.mark.parametrize("name", DTYPES)
def test_torch_survives_the_trip(name: str) -> None:
    tensor = torch.tensor([[0, 1], [1, 0]], dtype=getattr(torch, name))
    back = TensorData(tensor).torch()
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_bytes_are_little_endian_whatever_the_arrays_order() -> None:
    big = np.array([1, 258], dtype=">i4")
    assert TensorData(big).to_bytes() == b"\x01\0\0\0\x02\x01\0\0"
    assert TensorData(big).tolist() == [1, 258]


@given(hnp.arrays(np.float32, 64, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_rounds_as_torch_does(values: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    want = torch.from_numpy(values).to(torch.bfloat16)
    if torch.isinf(want).any() and not np.isinf(values).any():
        with pytest.raises(ValueError, match="bfloat16"):
            TensorData(values, "bf16")
        return
    fits = values[(torch.isinf(want) == torch.from_numpy(np.isinf(values))).numpy()]
    got = TensorData(fits, "bf16")
    assert torch.equal(got.torch(), torch.from_numpy(fits).to(torch.bfloat16))
    np.testing.assert_array_equal(got.numpy(), torch.from_numpy(fits).bfloat16().float().numpy())


def test_bfloat16_keeps_what_is_not_a_number() -> None:
    # This NaN's payload would carry into the sign if it were rounded like a number.
    nan = np.array([0x7FFF_FFFF], dtype=np.uint32).view(np.float32)
    got = TensorData(np.concatenate([nan, [np.inf, -np.inf]]).astype(np.float32), "bf16").tolist()
    assert np.isnan(got[0])
    assert got[1:] == [np.inf, -np.inf]


def test_a_tensor_that_takes_gradients_gives_its_values() -> None:
    leaf = torch.tensor([1.5, 2.5], requires_grad=True)
    assert TensorData(leaf * 2).tolist() == [3.0, 5.0]
    assert TensorData(torch.arange(6).reshape(2, 3).T).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        ([1, 2], "int64", (2,)),
        ([1.0, 2], "float32", (2,)),
        ([True, False], "bool", (2,)),
        ([[1, 2], [3, 4]], "int64", (2, 2)),
        (3, "int64", ()),
        (np.float64(0.5), "float32", ()),
        (np.zeros(3), "float32", (3,)),
        ([], "float32", (0,)),
    ],
)
def test_a_dtype_is_found_where_none_is_given(
    data: Any, dtype: str, shape: tuple[int, ...]
) -> None:
    tensor = TensorData(data)
    assert (tensor.dtype, tensor.shape) == (dtype, shape)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([1], "float8"), ValueError, "int32, int64"),
        ((b"1234",), TypeError, "dtype must be given with bytes"),
        ((b"12345", "s32"), ValueError, "4 bytes, got 5 bytes"),
        ((b"\0\x02", "bool"), ValueError, "bytes 0 and 1"),
        (([1, 2, 3], "s32", [2]), ValueError, r"3 elements, got \[2\]"),
        (([1, 2], None, [-2, -1]), ValueError, "negative"),
        (([1, 2], None, "x"), TypeError, "shape"),
        (([1, 2**31], "s32"), ValueError, "got 2147483648"),
        (([-1], "u8"), ValueError, "got -1"),
        (([2], "bool"), ValueError, "got 2"),
        (([1.5], "s64"), ValueError, "whole numbers for int64, got 1.5"),
        (([float("nan")], "s64"), ValueError, "got nan"),
        (([1e39], "f32"), ValueError, "beyond its range"),
        (([70000.0], "f16"), ValueError, "beyond its range"),
        (([3.4e38], "bf16"), ValueError, "beyond its range"),
        (([2**70],), (TypeError, ValueError), "numbers"),
        (([[1], [2, 3]],), ValueError, "regular"),
        (("text",), TypeError, "got str"),
        (({1, 2},), TypeError, "got set"),
        (([1, "a"],), TypeError, "'a'"),
        (([None],), TypeError, "None"),
        ((np.array([1], dtype=np.int16),), ValueError, "int16"),
    ],
)
def test_what_it_cannot_hold_is_named(arguments: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        TensorData(*arguments)


def test_it_is_a_value() -> None:
    source = np.array([1, 2, 3])
    tensor = TensorData(source)
    source[0] = 99
    assert tensor.tolist() == [1, 2, 3]
    assert tensor == TensorData([1, 2, 3]) != TensorData([1, 2, 3], "s32")
    assert tensor != TensorData([[1, 2, 3]])
    assert len({tensor, TensorData([1, 2, 3])}) == 1
    with pytest.raises(ValueError, match="read-only"):
        tensor.numpy()[0] = 5
    with pytest.raises(AttributeError, match="value"):
        tensor.dtype = "s32"  # type: ignore[misc]
    tensor.torch()[0] = 7
    assert tensor.tolist() == [1, 2, 3]


def test_a_slice_of_a_read_only_array_does_not_follow_its_owner() -> None:
    owner = np.arange(4)
    view = owner[:2]
    view.flags.writeable = False
    tensor = TensorData(view)
    owner[0] = 99
    assert tensor.tolist() == [0, 1]


@pytest.mark.parametrize("name", DTYPES)
def test_it_can_be_copied_and_sent(name: str) -> None:
    tensor = TensorData([[0, 1], [1, 1]], name)
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    assert copy.deepcopy(tensor) == tensor
    assert TensorData.coerce(tensor.to_dict()) == tensor


def test_a_mapping_gives_the_arguments() -> None:
    assert TensorData.coerce({"data": [1, 2], "dtype": "s32"}) == TensorData([1, 2], "s32")
    assert TensorData.coerce({"data": [1, 2]}, "f32").dtype == "float32"
    with pytest.raises(ValueError, match="dtpye"):
        TensorData.coerce({"data": [1], "dtpye": "s32"})
    with pytest.raises(ValueError, match="data"):
        TensorData.coerce({"dtype": "s32"})
    same = TensorData([1])
    assert TensorData.coerce(same, "s64") is same


def test_it_shows_itself_shortly() -> None:
    assert repr(TensorData(range(100), "s32")).startswith("TensorData([0, 1, 2, 3, 4, 5, ...]")
