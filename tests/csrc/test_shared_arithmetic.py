"""What the CUDA kernels share with the CPU: 8-bit codes, the guard of a step, tables of tensors."""

from __future__ import annotations

import ctypes
import math
import shutil
from pathlib import Path

import pytest
import torch

from crucible_kitchen.kernels.adamw_step.eight_bit import dynamic_code

from .conftest import ROOT, shared_library

if shutil.which("g++") is None:
    pytest.skip("the headers are compiled by g++, which is not here", allow_module_level=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = Path(__file__).with_name("shared_arithmetic.cpp")
    library = tmp_path_factory.mktemp("shared") / "shared.so"
    options = ("-O2", "-Wall", "-Wextra", "-Werror", "-fno-math-errno", f"-I{ROOT}")
    loaded = ctypes.CDLL(str(shared_library(source, library, *options, "-Wno-unknown-pragmas")))
    loaded.factor.restype, loaded.factor.argtypes = ctypes.c_float, [ctypes.c_double] * 3
    loaded.spread.restype = ctypes.c_int64
    return loaded


def numbers_of(shared: ctypes.CDLL, signed: bool) -> torch.Tensor:
    numbers = torch.empty(256)
    shared.decode(int(signed), ctypes.c_void_p(numbers.data_ptr()))
    return numbers


def codes_of(shared: ctypes.CDLL, values: torch.Tensor, signed: bool) -> torch.Tensor:
    codes = torch.empty(len(values), dtype=torch.uint8)
    source, target = (ctypes.c_void_p(t.data_ptr()) for t in (values, codes))
    shared.encode(source, ctypes.c_int64(len(values)), int(signed), target)
    return codes


@pytest.mark.parametrize("signed", [True, False])
def test_codes_stand_for_the_listed_numbers(shared: ctypes.CDLL, signed: bool) -> None:
    want = torch.tensor(dynamic_code(signed=signed), dtype=torch.float64)
    got = numbers_of(shared, signed)
    torch.testing.assert_close(got.double(), want, rtol=3e-7, atol=0)
    assert torch.equal(codes_of(shared, got, signed), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("signed", [True, False])
def test_every_value_gets_the_nearest_number(shared: ctypes.CDLL, signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    decades = 10 ** (-8 * torch.rand(200_000, generator=generator))
    values = torch.cat([decades, torch.rand(200_000, generator=generator), torch.zeros(1)])
    if signed:
        values = torch.cat([values, -values])
    numbers = torch.tensor(dynamic_code(signed=signed), dtype=torch.float64)
    codes = codes_of(shared, values, signed)
    distance = (values.double() - numbers[codes.long()]).abs()
    below = codes.long().sub(1).clamp_min(0)
    above = codes.long().add(1).clamp_max(255)
    nearest = torch.minimum(
        (values.double() - numbers[below]).abs(), (values.double() - numbers[above]).abs()
    )
    # A value as near to the next number as to its own may get either.
    assert (distance <= nearest + 2e-7 * values.double().abs()).all()


def test_what_is_no_number_has_the_code_of_zero(shared: ctypes.CDLL) -> None:
    nan = torch.tensor([math.nan])
    assert codes_of(shared, nan, True).item() == dynamic_code(signed=True).index(0.0)
    assert codes_of(shared, nan, False).item() == 0


@pytest.mark.parametrize(
    ("norm", "max_norm", "scale", "factor"),
    [
        (3.0, 0.0, 0.5, 0.5),
        (0.5, 1.0, 1.0, 1.0),
        (4.0, 1.0, 1.0, 1.0 / (4.0 + 1e-6)),
        (4.0, 1.0, 0.5, 0.5 / (2.0 + 1e-6)),
        (0.0, 1.0, 1.0, 1.0),
        (math.nan, 1.0, 1.0, -1.0),
        (math.inf, 0.0, 1.0, -1.0),
    ],
)
def test_the_guard_clips_and_skips(
    shared: ctypes.CDLL, norm: float, max_norm: float, scale: float, factor: float
) -> None:
    assert shared.factor(norm, max_norm, scale) == pytest.approx(factor, rel=1e-7)


def spread(shared: ctypes.CDLL, numels: list[int], block: int) -> list[tuple[int, int, int]]:
    rows = sum(-(-numel // block) for numel in numels)
    sizes = (ctypes.c_int64 * len(numels))(*numels)
    found = (ctypes.c_int64 * (3 * rows))()
    count = shared.spread(sizes, ctypes.c_int64(len(numels)), ctypes.c_int64(block), found)
    assert count == rows
    return [(found[3 * i], found[3 * i + 1], found[3 * i + 2]) for i in range(rows)]


def test_each_block_finds_its_tensor_and_its_place(shared: ctypes.CDLL) -> None:
    capacity = shared.capacity()
    numels = [1 + 37 * i % 101 for i in range(2 * capacity + 3)]
    numels[1] = numels[-1] = 0
    full = [i for i, numel in enumerate(numels) if numel]
    want = [
        (full.index(i) // capacity, i, first)
        for i, numel in enumerate(numels)
        for first in range(0, numel, 16)
    ]
    assert spread(shared, numels, 16) == want
    assert want[-1][0] == 2, "three launches"


def test_nothing_makes_no_launch_and_too_much_is_refused(shared: ctypes.CDLL) -> None:
    assert spread(shared, [], 16) == []
    assert spread(shared, [0, 0], 16) == []
    too_large = (ctypes.c_int64 * 1)(1 << 40)
    assert shared.spread(too_large, ctypes.c_int64(1), ctypes.c_int64(256), None) == -1
