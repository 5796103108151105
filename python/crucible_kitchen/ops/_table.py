"""An op is an ordered table of kernels, best first; the first that does not refuse runs.

A kernel says why it refuses, so the table can explain every choice it makes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, get_args

from crucible_kitchen.errors import KernelError, did_you_mean
from crucible_kitchen.ops._refusals import triton_interpreted

Backend = Literal["cuda", "triton", "cpu", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@cache
def _load(target: str, launcher: str | None = None) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function if launcher is None else function(_load(launcher))


@dataclass(frozen=True)
class Kernel:
    """One way to compute an op.

    Args:
        backend: ``cuda``, ``triton``, ``cpu`` or ``reference``.
        target: ``module:function``, imported when the kernel is first run; the function takes what
            the op takes.
        refuses: takes what the op takes; the reason why this kernel cannot compute it, or None. It
            runs on every call, so it looks at devices, dtypes and sizes and never at data.
        launcher: ``module:function`` that starts its kernels, where there is more than one way to;
            `target` is then called with it once, and returns what takes what the op takes.
        how: what `explain` adds to it where it runs.
    """

    backend: Backend
    target: str
    refuses: Callable[..., str | None]
    launcher: str | None = None
    how: str = ""

    def load(self) -> Callable[..., Any]:
        """The kernel's function."""
        return _load(self.target, self.launcher)


@dataclass(frozen=True)
class Verdict:
    """What one kernel said to some arguments: `refused` is its reason, or None if it takes them."""

    backend: Backend
    refused: str | None
    how: str = ""


@dataclass(frozen=True)
class Explanation:
    """Which kernel of an op runs on some arguments, and what every kernel said to them.

    Args:
        op: name of the op.
        chosen: backend of the kernel that runs, or None where all refuse.
        verdicts: one for each kernel, in the order of the table.
    """

    op: str
    chosen: Backend | None
    verdicts: tuple[Verdict, ...]

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.chosen or 'no kernel'} runs"]
        for verdict in self.verdicts:
            if verdict.backend == self.chosen:
                said = f"runs, {verdict.how}" if verdict.how else "runs"
            elif verdict.refused is None:
                said = "could run, ranked below"
            else:
                said = f"refused: {verdict.refused}"
            lines.append(f"  {verdict.backend:<9} {said}")
        return "\n".join(lines)


class _Only:
    """The one backend that every op is held to, or None. Process-wide, not per thread:
    autograd runs the backward pass of CUDA tensors on threads of its own."""

    backend: Backend | None = None


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Hold every op of this process to one backend, to test a kernel or to find a wrong one.

    Raises:
        ValueError: there is no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"using: backend must be one of {', '.join(BACKENDS)}, got {backend!r}; "
            f"{did_you_mean(backend, BACKENDS)}"
        )
    before, _Only.backend = _Only.backend, backend
    try:
        yield
    finally:
        _Only.backend = before


def held() -> Backend | None:
    """The backend that every op is held to, or None."""
    return _Only.backend


def takes_processors() -> bool:
    """Whether every op's tensors on the CPU go to the compiled kernel that takes them."""
    return _Only.backend in (None, "cpu") and not triton_interpreted()


@dataclass(frozen=True)
class Op:
    """A named computation and the kernels that can do it, best first, the reference last."""

    name: str
    kernels: tuple[Kernel, ...]

    @cached_property
    def _of_processors(self) -> tuple[Kernel, ...]:
        return tuple(kernel for kernel in self.kernels if kernel.backend in ("cpu", "reference"))

    def choose(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """The function of the first kernel that takes these arguments.

        Raises:
            KernelError: every kernel refuses; the message has each one's reason.
        """
        only = _Only.backend
        # Refusing is most of a small call, and for these it is for sure.
        on_processor = getattr(args[0], "is_cpu", False) and not triton_interpreted()
        for kernel in self._of_processors if on_processor else self.kernels:
            if only is not None and kernel.backend != only:
                continue
            if kernel.refuses(*args, **options) is None:
                return _load(kernel.target, kernel.launcher)
        held = f"\n(crucible_kitchen.ops.using({only!r}) is in force)" if only else ""
        raise KernelError(f"{self.explain(*args, **options)}{held}")

    def serves(self, *args: Any, **options: Any) -> bool:
        """Whether a kernel takes these arguments other than the reference, which is slow."""
        only = _Only.backend
        return any(
            kernel.backend != "reference"
            and only in (None, kernel.backend)
            and kernel.refuses(*args, **options) is None
            for kernel in self.kernels
        )

    def explain(self, *args: Any, **options: Any) -> Explanation:
        """Which kernel would run on these arguments, and why each other one would not."""
        only = _Only.backend
        verdicts = tuple(
            Verdict(
                kernel.backend,
                f"held to {only}"
                if only is not None and kernel.backend != only
                else kernel.refuses(*args, **options),
                kernel.how,
            )
            for kernel in self.kernels
        )
        takers = (verdict.backend for verdict in verdicts if verdict.refused is None)
        return Explanation(self.name, next(takers, None), verdicts)

    def kernel(self, backend: str) -> Kernel:
        """The kernel of one backend.

        Raises:
            KernelError: the op has none.
        """
        for kernel in self.kernels:
            if kernel.backend == backend:
                return kernel
        known = [kernel.backend for kernel in self.kernels]
        raise KernelError(f"{self.name}: no {backend!r} kernel; {did_you_mean(backend, known)}")
