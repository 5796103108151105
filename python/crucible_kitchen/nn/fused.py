"""Parts of a model that this package's ops compute in one pass.

A part is taken only if the op gives the part's own numbers on a few random rows, tried once for
each class of part; any other part stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crucible_kitchen import ops
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward

# float32 leaves the rounding of one row's sum; bfloat16 rounds to 8 bits, eager code twice.
_AGREEMENT = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
# RMS norms call it the one or the other.
_EPS = ("variance_epsilon", "eps")

# Gives a tensor, or NotImplemented.
Forward = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Candidate:
    """How an op might compute a part.

    Args:
        op: name of the op.
        forward: takes the part and what its own forward takes; NotImplemented where it cannot.
        weight: one of the part's weights, for its dtype and device.
        columns: of the part's input.
    """

    op: str
    forward: Forward
    weight: Tensor
    columns: int


class Fuser:
    """Finds the forward of a part, and why it has none; remembers what it tried for each class."""

    def __init__(self) -> None:
        self._tried: dict[tuple[object, ...], Candidate | str] = {}

    def forward_of(self, part: nn.Module) -> Candidate | str | None:
        """The op for a norm or a gated MLP, or the reason why none serves; None: neither."""
        candidates = [*_norms(part), *_mlps(part)]
        if not candidates:
            return None
        first = candidates[0]
        if is_replaced(part):
            return "its forward is replaced already"
        if (reason := why_no_kernel(first.op, first.weight)) is not None:
            return reason
        key = (type(part), _activation(part), first.weight.dtype, first.weight.device)
        if key not in self._tried:
            self._tried[key] = next(
                (c for c in candidates if _agree(part, c)), _difference(part, first.op)
            )
        return self._tried[key]


def fuse(model: nn.Module, switch: Switch | None = None) -> int:
    """Let our ops compute every norm and gated MLP that they can, in place.

    Modules, parameters and their names stay.

    Returns:
        How many parts they compute now.
    """
    fuser, switch = Fuser(), switch or Switch()
    found = [(part, fuser.forward_of(part)) for part in model.modules()]
    chosen = [(part, c) for part, c in found if isinstance(c, Candidate)]
    for part, candidate in chosen:
        put_forward(part, candidate.forward, switch)
    return len(chosen)


def why_no_kernel(op: str, weight: Tensor) -> str | None:
    """Why no kernel but the slow reference computes an op where this weight is, or None."""
    if weight.is_meta:
        return "its weights are on the meta device: load them first"
    like = weight.new_empty((1, 1))
    explanation = ops.explain(op, *[like] * (2 if op == "swiglu" else 1))
    if explanation.chosen not in (None, "reference"):
        return None
    return f"no kernel takes {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _norms(part: nn.Module) -> Iterator[Candidate]:
    weights = dict(part.named_parameters())
    weight = weights.get("weight")
    eps = next((name for name in _EPS if isinstance(getattr(part, name, None), float)), None)
    # A layer norm has a bias, or could have one.
    if len(weights) != 1 or weight is None or weight.ndim != 1 or eps is None:
        return
    if not isinstance(part, nn.LayerNorm):
        yield Candidate("rms_norm", _rms_norm(eps), weight, len(weight))
        yield Candidate("rms_norm", _rms_norm_from_one(eps), weight, len(weight))


def _rms_norm(eps: str) -> Forward:
    def forward(part: Any, x: Tensor) -> Any:
        if x.dtype != part.weight.dtype or not _served(ops.OPS["rms_norm"], x):
            return NotImplemented
        return ops.rms_norm(x, part.weight, getattr(part, eps))

    return forward


def _rms_norm_from_one(eps: str) -> Forward:
    """Gemma's: the weight is what the factor has above one."""

    def forward(part: Any, x: Tensor) -> Any:
        if x.dtype != part.weight.dtype or not _served(ops.OPS["rms_norm"], x):
            return NotImplemented
        return ops.rms_norm(x, 1.0 + part.weight.float(), getattr(part, eps))

    return forward


def _mlps(part: nn.Module) -> Iterator[Candidate]:
    children = {name: c for name, c in part.named_children() if any(True for _ in c.parameters())}
    forward = {
        ("down_proj", "gate_proj", "up_proj"): _gated,
        ("down_proj", "gate_up_proj"): _gated_in_one,
    }.get(tuple(sorted(children)))
    if forward is None:
        return
    first = children["gate_proj" if "gate_proj" in children else "gate_up_proj"]
    weight = getattr(first, "weight", None)  # of PEFT's layers, that of the layer they wrap
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
        yield Candidate("swiglu", forward, weight, weight.shape[1])


def _gated(part: Any, x: Tensor) -> Any:
    if not _served(ops.OPS["swiglu"], x, x):
        return NotImplemented
    return part.down_proj(ops.swiglu(part.gate_proj(x), part.up_proj(x)))


def _gated_in_one(part: Any, x: Tensor) -> Any:
    """Phi-3's: one linear gives gate and up."""
    if not _served(ops.OPS["swiglu"], x, x):
        return NotImplemented
    gate, up = part.gate_up_proj(x).chunk(2, dim=-1)
    return part.down_proj(ops.swiglu(gate, up))


def _served(op: ops.Op, *args: Tensor) -> bool:
    # What is being compiled was served when it was put in, and stays where it is.
    return torch.compiler.is_compiling() or op.serves(*args)


def _activation(part: nn.Module) -> str:
    found = getattr(part, "act_fn", None) or getattr(part, "activation_fn", None)
    return type(found).__name__


def _difference(part: nn.Module, op: str) -> str:
    if op == "swiglu" and _activation(part) not in ("SiLU", "SiLUActivation"):
        return f"its activation is {_activation(part)}; swiglu computes SiLU"
    return f"{op} computes something else than it does"


@torch.no_grad()
def _agree(part: nn.Module, candidate: Candidate) -> bool:
    """Whether both give the same on rows of three magnitudes, where eps and silu's bend show."""
    rows = torch.randn(3, candidate.columns, generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([[1e-3], [1.0], [30.0]])
    rows = rows.to(device=candidate.weight.device, dtype=candidate.weight.dtype)
    with evaluating(part):
        got, want = candidate.forward(part, rows).float(), part(rows).float()
    error = (got - want).norm(dim=1) / want.norm(dim=1)
    return bool((error <= _AGREEMENT[candidate.weight.dtype]).all())
