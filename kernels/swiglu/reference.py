"""The definition of `swiglu`, in float64."""

from __future__ import annotations

from torch import Tensor

from .variant import Variant


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    g, u = gate.double(), up.double()
    return (g * g.sigmoid() * u).to(gate.dtype)


def backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """dgate = dy up s (1 + gate (1 - s)), dup = dy gate s, with s = sigmoid(gate)."""
    d, g, u = dy.double(), gate.double(), up.double()
    s = g.sigmoid()
    return (d * u * s * (1 + g * (1 - s))).to(gate.dtype), (d * g * s).to(up.dtype)


swiglu = Variant(forward, backward)
