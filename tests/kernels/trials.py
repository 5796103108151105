"""Walks ops x kernels x sizes x dtypes, and runs one of them beside the reference in float64."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.common.tolerance import TOLERANCE


@dataclass(frozen=True)
class Trial:
    """One kernel of one op on one size in one dtype."""

    op: str
    backend: str
    size: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.op}-{self.backend}-{self.size}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def cases(self) -> ModuleType:
        """The op's cases.py."""
        return cases_of(self.op)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the call."""
        make: Callable[[Any], dict[str, Any]] = getattr(self.cases, "options", lambda size: {})
        return make(self.cases.SIZES[self.size])

    def inputs(self, device: str) -> tuple[Any, ...]:
        """Fresh positional arguments of the call."""
        args: tuple[Any, ...] = self.cases.inputs(
            self.cases.SIZES[self.size], self.dtype, device, seed=0
        )
        return args


def cases_of(op: str) -> ModuleType:
    """kernels/<op>/cases.py."""
    return importlib.import_module(f"crucible_kitchen.kernels.{op}.cases")


def trials(backends: Sequence[str]) -> Iterator[Trial]:
    """Every trial of the kernels of these backends."""
    for name, op in ops.OPS.items():
        cases = cases_of(name)
        for kernel in op.kernels:
            if kernel.backend in backends:
                for size in cases.SIZES:
                    for dtype in cases.DTYPES:
                        yield Trial(name, kernel.backend, size, dtype)


def for_each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it, or in a list in it, changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(for_each_tensor(change, item) for item in value)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a tensor, a list, or a tuple."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


def results(
    trial: Trial, call: Callable[..., Any], args: tuple[Any, ...]
) -> dict[str, list[Tensor]]:
    """Everything a call makes: outputs, gradients, arguments changed in place; each by name."""
    leaves = list(args)
    for i in trial.cases.GRADIENTS:  # an optional argument may be None
        leaves[i] = for_each_tensor(lambda t: t.detach().requires_grad_(), args[i])
    returned = call(*leaves, **trial.options)
    made = {"output": tensors_in(returned)}
    for name, i in getattr(trial.cases, "RESULTS", {}).items():
        made[name] = tensors_in(leaves[i])
    wanted = [(i, leaf) for i in trial.cases.GRADIENTS for leaf in tensors_in(leaves[i])]
    if wanted:
        outputs = [output for output in made["output"] if output.requires_grad]
        gradients = torch.autograd.grad(outputs, [t for _, t in wanted], weights_like(outputs))
        for (i, _), gradient in zip(wanted, gradients, strict=True):
            made.setdefault(f"gradient of argument {i}", []).append(gradient)
    return {name: [t.detach() for t in tensors] for name, tensors in made.items()}


def weights_like(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the outputs that are the same numbers in every dtype (8 bits are enough)."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(-100, 100, output.shape, generator=generator)
        .div(64)
        .to(device=output.device, dtype=output.dtype)
        for output in outputs
    ]


def in_float64(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same arguments, exactly, as float64 copies."""

    def widen(tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        return copy.double() if copy.dtype.is_floating_point else copy

    widened: tuple[Any, ...] = for_each_tensor(widen, args)
    return widened


def run_both(
    trial: Trial, args: tuple[Any, ...]
) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
    """What the public op makes when held to the trial's kernel, and what the reference makes."""
    reference = ops.OPS[trial.op].kernel("reference").load()
    want = results(trial, reference, in_float64(args))
    with ops.using(trial.backend):  # type: ignore[arg-type]
        got = results(trial, getattr(ops, trial.op), args)
    return got, want


def disagreements(got: dict[str, list[Tensor]], want: dict[str, list[Tensor]]) -> list[str]:
    """Every result that is missing, shaped wrong, not finite, or too far from the reference."""
    found = []
    for name, wants in want.items():
        if len(got[name]) != len(wants):
            found.append(f"{name}: {len(got[name])} tensors, the reference has {len(wants)}")
        for i, (have, wanted) in enumerate(zip(got[name], wants, strict=False)):
            if have.shape != wanted.shape:
                found.append(f"{name}[{i}]: shape {list(have.shape)}, not {list(wanted.shape)}")
                continue
            error, size = (have.double() - wanted).norm().item(), wanted.norm().item()
            # Written so that NaN fails.
            if not error <= TOLERANCE[have.dtype] * size:
                found.append(
                    f"{name}[{i}]: error {error:.2e} on a norm of {size:.2e}, {have.dtype}"
                )
    return found
