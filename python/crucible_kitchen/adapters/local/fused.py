"""Parts of a loaded model that this package's ops compute in one pass, put in their place.

A part is replaced only if the replacement gives the part's own numbers on a few random rows, tried
once for each class of part; any other part stays as it is. `CausalModel.load` then compares the
whole model with its own code.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from crucible_kitchen import ops

# float32 leaves the rounding of one row's sum; bfloat16 rounds to 8 bits, eager code twice.
_AGREEMENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# RMS norms call it the one or the other.
_EPS = ("variance_epsilon", "eps")


class RmsNorm(nn.Module):
    """An RMS norm by `ops.rms_norm`, with the weight of the module whose place it takes."""

    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        """Args: x, [..., N]. Returns: the same shape and dtype."""
        return ops.rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class GatedMlp(nn.Module):
    """``down(silu(gate(x)) * up(x))`` by `ops.swiglu`, with the linears of what it replaces."""

    def __init__(self, gate_proj: nn.Linear, up_proj: nn.Linear, down_proj: nn.Linear) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj

    def forward(self, x: Tensor) -> Tensor:
        """Args: x, [..., H]. Returns: the same shape and dtype."""
        y: Tensor = self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))
        return y


@torch.no_grad()
def fuse(model: nn.Module) -> int:
    """Replace every part that a fused one computes, in place; call it before LoRA goes on.

    Parameters and their names stay.

    Returns:
        How many parts were replaced.
    """
    same: dict[type[nn.Module], bool] = {}
    replaced = 0
    for parent, name, part, fused, width in list(_candidates(model)):
        kind = type(part)
        if kind not in same:
            same[kind] = _agree(part, fused, width)
        if same[kind]:
            setattr(parent, name, fused.train(part.training))
            replaced += 1
    return replaced


def _candidates(
    model: nn.Module,
) -> Iterator[tuple[nn.Module, str, nn.Module, nn.Module, int]]:
    """Parts that look as if they could be replaced: parent, name, part, replacement, columns."""
    for parent in model.modules():
        for name, part in parent.named_children():
            if (norm := _as_rms_norm(part)) is not None:
                yield parent, name, part, norm, len(norm.weight)
            elif (mlp := _as_gated_mlp(part)) is not None:
                yield parent, name, part, mlp, mlp.gate_proj.in_features


def _as_rms_norm(part: nn.Module) -> RmsNorm | None:
    weights = dict(part.named_parameters())
    weight = weights.get("weight")
    eps = next((getattr(part, name) for name in _EPS if hasattr(part, name)), None)
    if len(weights) != 1 or weight is None or weight.ndim != 1 or not isinstance(eps, float):
        return None
    return RmsNorm(weight, eps)


def _as_gated_mlp(part: nn.Module) -> GatedMlp | None:
    linears = [getattr(part, f"{name}_proj", None) for name in ("gate", "up", "down")]
    gate, up, down = linears
    owned = [child for child in part.children() if any(True for _ in child.parameters())]
    if len(owned) != 3 or any(type(linear) is not nn.Linear for linear in linears):
        return None
    return GatedMlp(gate, up, down)  # type: ignore[arg-type]  # checked above


def _agree(part: nn.Module, fused: nn.Module, width: int) -> bool:
    """Whether both give the same on rows of three magnitudes, where eps and silu's bend show."""
    weight = next(part.parameters())
    if weight.dtype not in _AGREEMENT:
        return False
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([[1e-3], [1.0], [30.0]])
    rows = rows.to(device=weight.device, dtype=weight.dtype)
    got, want = fused(rows).float(), part(rows).float()
    error = (got - want).norm(dim=1) / want.norm(dim=1)
    return bool((error <= _AGREEMENT[weight.dtype]).all())
