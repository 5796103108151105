"""Starts Triton kernels that Triton compiles on first use, or interprets."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from crucible_kitchen.kernels.common.configuration import Configuration


@cache
def function_of(kernel: str) -> Any:
    """The decorated function of ``op.name``."""
    op, name = kernel.split(".")
    module = importlib.import_module(f"crucible_kitchen.kernels.{op}.triton_kernels")
    return getattr(module, f"_{name}")


def launch(
    kernel: str,
    grid: tuple[int, ...],
    args: Sequence[Tensor | int | float | None],
    configuration: Configuration,
) -> None:
    """See `launcher.Launcher`."""
    function_of(kernel)[grid](
        *args,
        **configuration.constants,
        num_warps=configuration.warps,
        num_stages=configuration.stages,
    )
