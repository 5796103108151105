"""What the extension says of all arguments of a call at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from crucible_kitchen import _C

KNOWN = frozenset({torch.Tensor, nn.Parameter, int, type(None)})


class Other(torch.Tensor):
    """A type that torch's dispatcher may have to see."""


@pytest.mark.parametrize(
    ("args", "want"),
    [
        ((), True),
        ((torch.ones(1), nn.Parameter(torch.ones(1)), 3, None), True),
        (([torch.ones(1), None], (torch.ones(1),), []), True),
        ((torch.ones(1), 0.5), False),
        ((True,), False),  # a kind of int, and not one
        (([torch.ones(1), Other()],), False),
        (([[torch.ones(1)]],), False),
        ((torch.ones(2, 3).shape,), False),  # a kind of tuple
    ],
)
def test_only_of_looks_at_arguments_and_items_of_lists(args: tuple[Any, ...], want: bool) -> None:
    assert _C.only_of(args, KNOWN) is want


def test_tensors_alike() -> None:
    first = [torch.ones(2, 3), nn.Parameter(torch.ones(4)), torch.ones(0, 5)]
    second = tuple(torch.zeros(t.shape, dtype=torch.bfloat16) for t in first)
    assert _C.alike_on_cpu(first, second)
    assert _C.alike_on_cpu([], [])


@pytest.mark.parametrize(
    "lists",
    [
        (),
        (torch.ones(1),),
        ([torch.ones(2)], []),
        ([torch.ones(2, 3)], [torch.ones(3, 2)]),
        ([torch.ones(2)], [torch.ones(2, 1)]),
        ([torch.ones(2, 3)], [torch.ones(3, 2).T]),
        ([torch.ones(2)], [torch.ones(2, device="meta")]),
        ([torch.ones(2)], [torch.ones(2).to_sparse()]),
    ],
)
def test_tensors_that_are_not_alike(lists: Any) -> None:
    assert not _C.alike_on_cpu(*lists)


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="alike_on_cpu: lists must be a tensor, got int"):
        _C.alike_on_cpu([torch.ones(1)], [1])
