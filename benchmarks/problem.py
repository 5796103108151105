"""What is timed: one op on one size, computed by our kernels and by what others take for it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops

from .roofline import Work

# A call does the whole work, forward and backward, and returns what it made: the output, then the
# gradients. One that computes something else (a floor to compare with) returns nothing.
Call = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Problem:
    """One op on one size, in one dtype, on one device.

    Args:
        op: its name.
        size_name: of the size, in kernels/<op>/cases.py.
        size: the size.
        dtype: of the inputs.
        device: ``cpu`` or ``cuda``.
    """

    op: str
    size_name: str
    size: Any
    dtype: torch.dtype
    device: str

    @property
    def cases(self) -> ModuleType:
        """kernels/<op>/cases.py."""
        return cases_of(self.op)

    @property
    def gradients(self) -> tuple[int, ...]:
        """Positions of the arguments whose gradient is computed too."""
        wanted: tuple[int, ...] = getattr(self.size, "gradients", self.cases.GRADIENTS)
        return wanted

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the call."""
        make: Callable[[Any], dict[str, Any]] = getattr(self.cases, "options", lambda size: {})
        return make(self.size)

    def inputs(self) -> tuple[Any, ...]:
        """Fresh positional arguments: the same numbers every time."""
        args: tuple[Any, ...] = self.cases.inputs(self.size, self.dtype, self.device, seed=0)
        return args

    def leaves(self) -> tuple[Any, ...]:
        """Fresh arguments, those to be differentiated as leaves of a graph."""
        args = list(self.inputs())
        for i in self.gradients:
            args[i] = _as_leaves(args[i])
        return tuple(args)

    def upstream(self, output: Tensor) -> Tensor:
        """The gradient of the loss in an output: the cases' own, or numbers drawn once."""
        own: Callable[[Tensor], Tensor] | None = getattr(self.cases, "benchmark_upstream", None)
        if own is not None:
            return own(output)
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randn(output.shape, generator=generator)
        return drawn.to(device=output.device, dtype=output.dtype)

    def work(self) -> Work | None:
        """The least work of a call, where the op's cases count it."""
        count = getattr(self.cases, "work", None)
        return Work(*count(self.size, self.dtype)) if count else None

    def forward_and_backward(self, forward: Callable[..., Any], args: tuple[Any, ...]) -> Call:
        """A call of `forward` on leaves, and of its gradients."""
        forward = self._around(forward)
        wanted = [leaf for i in self.gradients for leaf in _tensors(args[i])]
        upstream: list[Tensor] = []  # drawn by the first call, which is never timed

        def call() -> list[Tensor]:
            returned = forward(*args, **self.options)
            if not wanted:
                return self.changed(returned, args)
            outputs = _tensors(returned[0] if isinstance(returned, tuple) else returned)
            if not upstream:
                upstream.extend(self.upstream(output) for output in outputs)
            gradients = torch.autograd.grad(outputs, wanted, upstream)
            return [*(output.detach() for output in outputs), *gradients]

        return call

    def changed(self, returned: Any, args: Sequence[Any]) -> list[Tensor]:
        """What an op without gradients made: its output, or the arguments it changed in place."""
        if isinstance(returned, Tensor):
            return [returned]
        places: dict[str, int] = getattr(self.cases, "RESULTS", {})
        return [tensor for place in places.values() for tensor in args[place]]

    def ours(self, backend: str) -> Call:
        """The public op, held to one backend."""
        call = self.forward_and_backward(getattr(ops, self.op), self.leaves())

        def held() -> list[Tensor]:
            with ops.using(backend):  # type: ignore[arg-type]
                return call()

        return held

    def peers(self) -> dict[str, Call]:
        """What others take on the same work, by name: peers/<op>.py."""
        module = self._peers_module()
        calls: dict[str, Call] = module.calls(self) if module else {}
        return calls

    def _around(self, op: Callable[..., Any]) -> Callable[..., Any]:
        """The op with what its users call beside it, where peers/<op>.py has such an `around`."""
        around = getattr(self._peers_module(), "around", None)
        return around(op) if around else op

    def _peers_module(self) -> ModuleType | None:
        name = f"{__package__}.peers.{self.op}"
        return importlib.import_module(name) if importlib.util.find_spec(name) else None

    def takers(self, backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Those of the backends that take the inputs; and why each other one does not."""
        takers: list[str] = []
        refused: dict[str, str] = {}
        args = self.inputs()
        for kernel in ops.OPS[self.op].kernels:
            if kernel.backend in backends:
                reason = kernel.refuses(*args, **self.options)
                if reason is None:
                    takers.append(kernel.backend)
                else:
                    refused[kernel.backend] = reason
        return takers, refused


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a tensor or of a list; of anything else, such as None, none."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, Tensor)]


def _as_leaves(value: Any) -> Any:
    """A tensor, or each of a list, to be differentiated."""
    if isinstance(value, list):
        return [_as_leaves(item) for item in value]
    return value.detach().requires_grad_() if isinstance(value, Tensor) else value


def cases_of(op: str) -> ModuleType:
    """kernels/<op>/cases.py."""
    return importlib.import_module(f"crucible_kitchen.kernels.{op}.cases")


def sizes_of(op: str, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The sizes worth timing on a device; a processor would take minutes over those of Llama."""
    cases = cases_of(op)
    sizes: dict[str, Any] = getattr(cases, "BENCHMARK_SIZES", cases.SIZES)
    return {
        name: size
        for name, size in sizes.items()
        if dtype in getattr(size, "dtypes", (dtype,))
        and not (device == "cpu" and name.startswith("llama"))
    }


def named_sizes(op: str) -> dict[str, Any]:
    """Every size that may be asked for by name, the tests' too."""
    cases = cases_of(op)
    return {**cases.SIZES, **getattr(cases, "BENCHMARK_SIZES", {})}
