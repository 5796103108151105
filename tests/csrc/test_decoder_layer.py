"""The door of a whole decoder layer: what it refuses, each by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crucible_kitchen import _C
from crucible_kitchen.ops._lora_linear_cpu import panels_of

T, H, A, G, D, INNER, R = 3, 8, 4, 2, 4, 12, 2
X, COS = torch.randn(T, H), torch.ones(T, D // 2)
BOUNDS = torch.tensor([0, 2, T])
NORMS, ATTENTION = ((torch.ones(H), 1e-6),) * 2, (COS, COS, BOUNDS, None, 0.5, 0)
# Columns in and out of each linear, by those that are one call.
SHAPES = (
    ((H, A * D), (H, G * D), (H, G * D)),
    ((A * D, H),),
    ((H, INNER), (H, INNER)),
    ((INNER, H),),
)
WEIGHTS = [[torch.randn(N, K) for K, N in of] for of in SHAPES]


def linears(backward: bool = False) -> list[list[Any]]:
    made = []
    for weights in WEIGHTS:
        panels = [panels_of(weight, backward=backward) for weight in weights]
        lora_a = [torch.randn(R, weight.shape[1]) for weight in weights]
        lora_b = [torch.randn(weight.shape[0], R) for weight in weights]
        count = len(weights)
        made.append([panels, [], [T], lora_a, lora_b, [1.0] * count, 0.0, [0] * count])
    return made


def forward(
    x: Tensor = X,
    norms: Any = NORMS,
    attention: Any = ATTENTION,
    linears: Any = None,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    made = [tuple(of) for of in linears or LINEARS]
    return _C.decoder_layer_forward(x, norms, attention, tuple(made), threads)


LINEARS = linears()


def changed(group: int, place: int, value: Any) -> Any:
    return [
        [value if (i, j) == (group, place) else item for j, item in enumerate(of)]
        for i, of in enumerate(LINEARS)
    ]


def test_what_it_makes() -> None:
    y, kept = forward()
    assert y.shape == (T, H)
    assert kept.ndim == 1
    again, _ = forward(threads=2)
    assert torch.equal(again, y)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x must have shape \[T, H\]"),
        ({"x": X.half()}, TypeError, r"x must be torch.float32 or torch.bfloat16"),
        ({"x": torch.randn(H, T).T}, ValueError, "x must be contiguous"),
        ({"norms": ((torch.ones(H + 1), 1e-6),) * 2}, ValueError, r"norm must have shape \[H\] = "),
        (
            {"attention": (COS[:2], COS, BOUNDS, None, 0.5, 0)},
            ValueError,
            r"cos must have shape \[T, D / 2\] = \[3, 2\]",
        ),
        (
            {"attention": (COS, COS.bfloat16(), BOUNDS, None, 0.5, 0)},
            TypeError,
            "sin must be torch.float32",
        ),
        (
            {"attention": (COS, COS, BOUNDS, None, 0.5, -1)},
            ValueError,
            "window must be at least 0, got -1",
        ),
        (
            {"attention": (COS, COS, BOUNDS[:2], None, 0.5, 0)},
            ValueError,
            "cu_seqlens must rise from 0 to T = 3",
        ),
        (
            {"attention": (torch.ones(T, 3), torch.ones(T, 3), BOUNDS, None, 0.5, 0)},
            ValueError,
            "q must be whole heads of 6 elements",
        ),
        ({"linears": changed(0, 2, [])}, ValueError, "rows must have an entry"),
        ({"linears": changed(0, 2, [T - 1])}, ValueError, "rows must sum to M = 3"),
        ({"linears": changed(1, 0, [])}, ValueError, "panels must have 1 entries, got 0"),
        (
            {"linears": changed(3, 4, [torch.ones(H + 4, R)])},
            ValueError,
            "down must give 8 columns",
        ),
        ({"linears": changed(2, 3, [torch.ones(R, 5)] * 2)}, ValueError, "lora_a must have shape"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
    ],
)
def test_what_it_refuses(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        forward(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dy": X[:2]}, r"dy must have shape \[T, H\] = \[3, 8\]"),
        ({"kept": torch.ones(3)}, r"kept must have shape \[numel\]"),
        ({"panels": None}, "panels must be given where dx is wanted, got None"),
    ],
)
def test_what_the_backward_refuses(given: dict[str, Any], message: str) -> None:
    _, kept = forward()
    of = linears(backward=True)
    if "panels" in given:
        of[2][0] = [None, None]
    with pytest.raises(ValueError, match=message):
        _C.decoder_layer_backward(
            given.get("dy", X),
            X,
            given.get("kept", kept),
            NORMS,
            ATTENTION,
            tuple(map(tuple, of)),
            [(True, True)] * 4,
            True,
            1,
        )
