"""Memory that maps a file: given back while it is the file's, and not where anybody has written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C, ops
from crucible_kitchen.ops import _lora_linear_cpu as cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what a page is")

N, K = 256, 512  # 128 pages of 4 KiB


@pytest.fixture
def values() -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mapped(tmp_path: Path, values: Tensor) -> Tensor:
    return from_file(tmp_path / "weights", values, shared=False)


def from_file(path: Path, values: Tensor, *, shared: bool) -> Tensor:
    path.write_bytes(values.numpy().tobytes())
    return torch.from_file(str(path), shared=shared, size=values.numel()).view(values.shape)


def resident(tensor: Tensor) -> int:
    """How many of a tensor's pages the process holds."""
    size = os.sysconf("SC_PAGE_SIZE")
    first = tensor.data_ptr() // size
    count = (tensor.data_ptr() + tensor.nbytes - 1) // size + 1 - first
    with open("/proc/self/pagemap", "rb") as table:
        table.seek(8 * first)
        entries = np.frombuffer(table.read(8 * count), np.uint64)
    return int((entries >> np.uint64(63)).sum())


def test_pages_of_a_file_are_given_back_and_read_again(mapped: Tensor, values: Tensor) -> None:
    assert torch.equal(mapped, values)
    assert resident(mapped) > 100
    assert _C.pages_give_back(mapped)
    assert resident(mapped) == 0
    assert _C.pages_unwritten(mapped)
    assert torch.equal(mapped, values)
    assert _C.pages_unwritten(mapped)


def test_what_somebody_wrote_stays(mapped: Tensor, values: Tensor) -> None:
    mapped[17, 3] = 5.0
    assert not _C.pages_unwritten(mapped)
    assert not _C.pages_give_back(mapped)
    values[17, 3] = 5.0
    assert torch.equal(mapped, values)


def test_other_memory_stays(tmp_path: Path, values: Tensor) -> None:
    """A process's own; a mapping that others may write to; less than a page."""
    shared = from_file(tmp_path / "shared", values, shared=True)
    assert torch.equal(shared, values)
    for tensor in (values, shared, values[0, :4]):
        assert not _C.pages_give_back(tensor)


def test_only_dense_tensors_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="pages_give_back: tensor must be contiguous"):
        _C.pages_give_back(torch.zeros(4, 4).T[1:])
    with pytest.raises(TypeError, match="pages_unwritten: tensor must be a tensor, got int"):
        _C.pages_unwritten(3)  # type: ignore[arg-type]


def through(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What a LoRA linear over a weight gives, and the gradient of its input."""
    generator = torch.Generator().manual_seed(1)
    x, a, b = (torch.randn(*s, generator=generator) for s in ((9, K), (4, K), (N, 4)))
    y = ops.lora_linear(x.requires_grad_(), weight, a, b, 2.0)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def test_a_packed_weight_is_not_resident(mapped: Tensor, values: Tensor) -> None:
    want = through(values)
    for _ in range(2):
        assert all(torch.equal(got, w) for got, w in zip(through(mapped), want, strict=True))
        assert resident(mapped) == 0
    assert torch.equal(mapped, values)  # whoever reads it finds it
    assert cpu.panels_of(mapped, backward=False) is cpu.panels_of(mapped, backward=False)


@pytest.mark.parametrize("counted", [True, False], ids=["in place", "through data"])
def test_a_change_of_a_mapped_weight_is_seen(mapped: Tensor, values: Tensor, counted: bool) -> None:
    """Of one element, which a sample would miss where the version counter says nothing."""
    through(mapped)
    (mapped if counted else mapped.data)[101, 7] = values[101, 7] = 50.0
    want = through(values)
    assert all(torch.equal(got, w) for got, w in zip(through(mapped), want, strict=True))
