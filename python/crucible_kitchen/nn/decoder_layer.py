"""A decoder layer of Llama and Mistral as one node of torch's graph.

Where each op of a layer is a node of its own, torch and Python take a fifth of the time that a step
of some hundred tokens takes. Here kernels run one after the other, on processors with no Python
between them; linears that read the same rows are one call, and what the norms and the gated MLP put
out is made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crucible_kitchen import ops
from crucible_kitchen.kernels.lora_linear_many.variant import Updates, Wanted
from crucible_kitchen.kernels.varlen_attention.variant import Segments
from crucible_kitchen.nn.lora_linear import LoraLinear
from crucible_kitchen.ops import _decoder_layer_cpu
from crucible_kitchen.ops._library import not_again


class Norm:
    """An RMS norm before a half of the layer.

    Args:
        weight: [H], frozen.
        eps: as `ops.rms_norm` takes it.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def described(self) -> tuple[Tensor, float]:
        """As compiled code takes it."""
        return self._weight.contiguous(), self._eps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The normed rows, and what the backward needs: 1 / rms of each."""
        kernel: Any = ops.OPS["rms_norm"].choose(x, self._weight)
        made: tuple[Tensor, Tensor] = kernel.forward(x, self._weight, self._eps)
        return made

    def backward(self, dy: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
        """The gradient of x."""
        kernel: Any = ops.OPS["rms_norm"].choose(dy, self._weight)
        dx: Tensor = kernel.backward(dy, x, self._weight, rstd, (True, False)).x
        return dx


class Linears:
    """Linears that read the same rows, with what is trained of them.

    Args:
        layers: none of them merged or with DoRA, all with the same dropout.
        count: how many rows they will read.
    """

    def __init__(self, layers: Sequence[LoraLinear], count: int) -> None:
        self._weights = [layer.weight for layer in layers]
        self._biases = [layer.bias for layer in layers if layer.bias is not None]
        each = [layer.updates(count) for layer in layers]
        a, b, scales, drops = (
            [item for updates in each for item in getattr(updates, name)]
            for name in ("lora_a", "lora_b", "scales", "drops")
        )
        self._updates = Updates(a, b, scales, each[0].rows, drops)
        self.trained = (*a, *b)

    def described(self, backward: bool, wants_x: bool) -> _decoder_layer_cpu.Arguments:
        """As compiled code takes them."""
        return _decoder_layer_cpu.linears(
            self._weights, self._biases, self._updates, backward=backward, wants_x=wants_x
        )

    def wanted(self, wants: Sequence[bool], wants_x: bool = True) -> Wanted:
        """What a backward computes, from which of `trained` need a gradient."""
        count = len(self._updates.lora_a)
        return Wanted(wants_x, any(wants[:count]), any(wants[count:]))

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each layer's output, and what the backward needs: x A^T of all."""
        kernel: Any = ops.OPS["lora_linear_many"].choose(x, self._weights, self._updates.lora_a)
        made: tuple[list[Tensor], Tensor] = kernel.forward(
            x, self._weights, self._biases, self._updates
        )
        return made

    def backward(
        self,
        dys: Sequence[Tensor],
        x: Tensor,
        xa: Tensor,
        wants: Sequence[bool],
        wants_x: bool = True,
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of x, summed over the layers, and of `trained`, as far as wanted."""
        wanted = self.wanted(wants, wants_x)
        none: list[Tensor | None] = [None] * len(self._updates.lora_a)
        if not any(wanted):
            return None, none + none
        kernel: Any = ops.OPS["lora_linear_many"].choose(
            dys[0], self._weights, self._updates.lora_a
        )
        dx, das, dbs = kernel.backward(
            dys, x if wanted.lora_a else None, self._weights, self._updates, xa, wanted
        )
        return dx, (das or none) + (dbs or none)


@dataclass(frozen=True)
class Attention:
    """Rotary embedding, and causal attention along segments.

    Args:
        cos: of each token's angles, [T, D / 2], float32.
        sin: likewise.
        segments: which tokens see each other.
        scale: of the scores.
        window: how many tokens back a query sees, itself included; 0 for all.
    """

    cos: Tensor
    sin: Tensor
    segments: Segments
    scale: float
    window: int

    def described(self) -> _decoder_layer_cpu.Arguments:
        """As compiled code takes it."""
        return self.cos, self.sin, *self.segments, self.scale, self.window

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """From projections [T, A D] to outputs [T, A, D], and what else the backward needs."""
        q, k, v = self._turn(self._heads(q)), self._turn(self._heads(k)), self._heads(v)
        kernel: Any = ops.OPS["varlen_attention"].choose(q)
        out, lse = kernel.forward(q, k, v, self.segments, self.scale, self.window)
        return out, q, k, v, lse

    def backward(
        self, dout: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor
    ) -> list[Tensor]:
        """The gradients of the projections."""
        kernel: Any = ops.OPS["varlen_attention"].choose(q)
        dq, dk, dv = kernel.backward(
            self._heads(dout), q, k, v, out, lse, self.segments, self.scale, self.window
        )
        return [t.flatten(1) for t in (self._turn(dq, True), self._turn(dk, True), dv)]

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(len(projected), -1, 2 * self.cos.shape[1])

    def _turn(self, heads: Tensor, back: bool = False) -> Tensor:
        kernel: Any = ops.OPS["rope"].choose(heads, self.cos, self.sin)
        turned: Tensor = kernel.rotate(heads, self.cos, self.sin, back)
        return turned


@dataclass(frozen=True)
class DecoderLayer:
    """What one call of a layer computes with, beside its rows.

    Args:
        norms: the one before attention, and the one before the MLP.
        qkv, o, gate_up, down: its linears, for as many rows.
        attention: of these rows.
    """

    norms: tuple[Norm, Norm]
    qkv: Linears
    attention: Attention
    o: Linears
    gate_up: Linears
    down: Linears

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for rows [T, H], differentiable in them and in every A and B.

        Raises:
            KernelError: no kernel takes the device or the dtype.

        Source: Touvron et al. 2023, section 2.2, https://arxiv.org/abs/2302.13971
        """
        trained = [t for of in self.linears for t in of.trained]
        node = _NodeInOneCall if _decoder_layer_cpu.takes(x) else _Node
        output: Tensor = node.apply(self, x, *trained)  # type: ignore[no-untyped-call]
        return output

    def described(self, *, backward: bool, wants_x: bool = True) -> _decoder_layer_cpu.Layer:
        """As compiled code takes it."""
        return _decoder_layer_cpu.Layer(
            tuple(norm.described() for norm in self.norms),
            self.attention.described(),
            tuple(of.described(backward, wants_x or of is not self.qkv) for of in self.linears),
        )

    def shared_out(self, wants: Sequence[bool]) -> Iterator[list[bool]]:
        """What is said of each of `trained`, by the linears that have them."""
        each = iter(wants)
        return ([next(each) for _ in of.trained] for of in self.linears)

    @property
    def linears(self) -> tuple[Linears, ...]:
        """In the order of `trained` in the node."""
        return self.qkv, self.o, self.gate_up, self.down


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: DecoderLayer, x: Tensor, *trained: Tensor) -> Tensor:
        before, between = layer.norms
        normed, rstd_before = before.forward(x)
        projected, xa_qkv = layer.qkv.forward(normed)
        out, *attended = layer.attention.forward(*projected)
        (middle,), xa_o = layer.o.forward(out.flatten(1))
        middle += x
        normed, rstd_between = between.forward(middle)
        (gate, up), xa_gate_up = layer.gate_up.forward(normed)
        (y,), xa_down = layer.down.forward(_gated(gate, up))
        y += middle
        ctx.layer = layer
        ctx.save_for_backward(
            *(x, rstd_before, xa_qkv, out, *attended, xa_o),
            *(middle, rstd_between, xa_gate_up, gate, up, xa_down),
            # Nothing but their versions is looked at: they must be those of the forward.
            *trained,
        )
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise not_again("decoder_layer")
        layer: DecoderLayer = ctx.layer
        x, rstd_before, xa_qkv, out, *attended, xa_o = ctx.saved_tensors[:9]
        middle, rstd_between, xa_gate_up, gate, up, xa_down = ctx.saved_tensors[9:15]
        _, wants_x, *wants = ctx.needs_input_grad
        of_qkv, of_o, of_gate_up, of_down = layer.shared_out(wants)
        before, between = layer.norms
        dy = dy.contiguous()
        dinner, d_down = layer.down.backward([dy], _gated(gate, up), xa_down, of_down)
        gate_kernel: Any = ops.OPS["swiglu"].choose(gate, up)
        dgated = gate_kernel.backward(dinner, gate, up)
        normed, _ = between.forward(middle)
        dnormed, d_gate_up = layer.gate_up.backward(dgated, normed, xa_gate_up, of_gate_up)
        assert dnormed is not None
        dmiddle = between.backward(dnormed, middle, rstd_between)
        dmiddle += dy
        dout, d_o = layer.o.backward([dmiddle], out.flatten(1), xa_o, of_o)
        assert dout is not None
        dprojected = layer.attention.backward(dout, out, *attended)
        normed, _ = before.forward(x)
        dnormed, d_qkv = layer.qkv.backward(dprojected, normed, xa_qkv, of_qkv, wants_x)
        dx = None
        if dnormed is not None:
            dx = before.backward(dnormed, x, rstd_before)
            dx += dmiddle
        return None, dx, *d_qkv, *d_o, *d_gate_up, *d_down


class _NodeInOneCall(torch.autograd.Function):
    """The same where compiled code runs the whole of a pass."""

    @staticmethod
    def forward(ctx: Any, layer: DecoderLayer, x: Tensor, *trained: Tensor) -> Tensor:
        x = x.contiguous()
        y, kept = _decoder_layer_cpu.forward(x, layer.described(backward=False))
        ctx.layer = layer
        ctx.save_for_backward(x, kept, *trained)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise not_again("decoder_layer")
        layer: DecoderLayer = ctx.layer
        x, kept, *_ = ctx.saved_tensors
        _, wants_x, *wants = ctx.needs_input_grad
        each = zip(layer.linears, layer.shared_out(wants), strict=True)
        dx, gradients = _decoder_layer_cpu.backward(
            dy.contiguous(),
            x,
            kept,
            layer.described(backward=True, wants_x=wants_x),
            [of.wanted(theirs, wants_x or of is not layer.qkv) for of, theirs in each],
        )
        return None, dx, *gradients


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    kernel: Any = ops.OPS["swiglu"].choose(gate, up)
    made: Tensor = kernel.forward(gate, up)
    return made
