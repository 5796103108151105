"""What this machine promises, and memory that cannot hide an element nobody wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def promised() -> tuple[str, ...]:
    """The backends this machine promises: CRUCIBLE_BACKENDS, or what can be known of it."""
    if named := os.environ.get("CRUCIBLE_BACKENDS"):
        return tuple(named.split(","))
    return ("cpu", "reference")


def device() -> str:
    """Where the promised backends compute."""
    on_gpu = {"cuda", "triton"} & set(promised()) and not INTERPRETED
    return "cuda" if on_gpu else "cpu"


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is full of NaN (or of the largest integer) until someone writes it."""

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype.is_floating_point:
            return tensor.fill_(float("nan"))
        if tensor.dtype != torch.bool and not tensor.dtype.is_complex:
            return tensor.fill_(torch.iinfo(tensor.dtype).max)
        return tensor

    def poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def fresh(*args: Any, **options: Any) -> torch.Tensor:
            with torch.no_grad():
                return poison(allocate(*args, **options))

        return fresh

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch, "empty_strided", poisoned(torch.empty_strided))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
