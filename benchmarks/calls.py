"""What is timed: forward and backward of each kernel of an op, and what others take for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops

from .roofline import Work


def cases_of(op: str) -> ModuleType:
    """kernels/<op>/cases.py."""
    return importlib.import_module(f"crucible_kitchen.kernels.{op}.cases")


def sizes_of(op: str) -> dict[str, Any]:
    """The sizes worth timing: BENCHMARK_SIZES, or those of the tests."""
    cases = cases_of(op)
    sizes: dict[str, Any] = getattr(cases, "BENCHMARK_SIZES", cases.SIZES)
    return sizes


def work_of(op: str, size: Any, dtype: torch.dtype) -> Work | None:
    """The least work of a call, where the op's cases count it."""
    count = getattr(cases_of(op), "work", None)
    return Work(*count(size, dtype)) if count else None


def calls_of(
    op: str, size: Any, dtype: torch.dtype, device: str, backends: tuple[str, ...]
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """One call for each kernel that takes the inputs and each peer; and who refused, and why."""
    cases = cases_of(op)
    args = cases.inputs(size, dtype, device, seed=0)
    make_options = getattr(cases, "options", None)
    options: dict[str, Any] = make_options(size) if make_options else {}
    calls: dict[str, Callable[[], object]] = {}
    refused: dict[str, str] = {}
    for kernel in ops.OPS[op].kernels:
        if kernel.backend in backends:
            if reason := kernel.refuses(*args, **options):
                refused[kernel.backend] = reason
            else:
                calls[kernel.backend] = _held(kernel.backend, op, cases.GRADIENTS, args, options)
    name = f"{__package__}.peers.{op}"
    if importlib.util.find_spec(name) is not None:
        calls |= importlib.import_module(name).calls(args, options)
    return calls, refused


def _held(
    backend: str, op: str, wanted: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]
) -> Callable[[], object]:
    leaves = list(args)
    for i in wanted:
        if isinstance(args[i], Tensor):
            leaves[i] = args[i].detach().requires_grad_()
    differentiated = [leaves[i] for i in wanted if isinstance(leaves[i], Tensor)]
    function = getattr(ops, op)

    def call() -> object:
        with ops.using(backend):  # type: ignore[arg-type]
            returned = function(*leaves, **options)
            if not differentiated:
                return returned
            first = returned[0] if isinstance(returned, tuple) else returned
            return torch.autograd.grad(first, differentiated, torch.ones_like(first))

    return call
