"""Llama's and Mistral's decoder layers, each as one node of torch's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from crucible_kitchen.adapters.local import attention, rotary
from crucible_kitchen.nn import LoraLinear
from crucible_kitchen.nn.decoder_layer import Attention, DecoderLayer, Linears, Norm
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward

# Exactly these: others norm or scale what a layer adds.
_KINDS = (LlamaDecoderLayer, MistralDecoderLayer)
# By the order in which a node takes them.
_ATTENTION = (("q_proj", "k_proj", "v_proj"), ("o_proj",))
_MLP = (("gate_proj", "up_proj"), ("down_proj",))


def fuse(model: nn.Module) -> None:
    """Let a decoder layer of a known kind run as one node wherever it can, in place.

    Its norms, MLP and attention must be our own already. A layer that has got a forward of its own
    keeps it.
    """
    switch = Switch()
    for layer in model.modules():
        if (
            type(layer) in _KINDS
            and not is_replaced(layer)
            and all(map(is_replaced, _parts(layer)))
        ):
            put_forward(layer, _forward, switch)


def runs(model: nn.Module) -> bool:
    """Whether the layers of a model that has been fused run as nodes, as it is now."""
    first: Any = next((m for m in model.modules() if type(m) in _KINDS), None)
    put: Any = None if first is None else getattr(first.__dict__.get("forward"), "__func__", None)
    return getattr(put, "runs", None) is _forward and _trained(first) is not None


def _parts(layer: Any) -> Sequence[nn.Module]:
    return layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm


def _forward(
    layer: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    segments: Sequence[int] | None = None,
    parents: Sequence[int] | None = None,
    **options: Any,
) -> Any:
    """Of packed sequences, [1, T, H], where all linears are trained."""
    cached = any(options.get(name) is not None for name in ("cache", "past_key_values"))
    packed = len(hidden_states) == 1 and attention_mask is None and not cached
    if not packed or position_embeddings is None or (linears := _trained(layer)) is None:
        return NotImplemented
    count, part = hidden_states.shape[1], layer.self_attn
    qkv, o, gate_up, down = (Linears(of, count) for of in linears)
    node = DecoderLayer(
        norms=(_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)),
        qkv=qkv,
        attention=Attention(
            *rotary.half(*position_embeddings),
            attention.segments_of(segments, parents, count),
            part.scaling,
            getattr(part.config, "sliding_window", None) or 0,
        ),
        o=o,
        gate_up=gate_up,
        down=down,
    )
    return node(hidden_states[0])[None]


def _norm(part: Any) -> Norm:
    return Norm(part.weight, part.variance_epsilon)


def _trained(layer: Any) -> list[list[LoraLinear]] | None:
    """The layer's linears, if all have an update of the plain kind."""
    found = [
        [getattr(part, name) for name in names]
        for part, groups in ((layer.self_attn, _ATTENTION), (layer.mlp, _MLP))
        for names in groups
    ]
    plain = all(
        isinstance(linear, LoraLinear) and not linear.merged and linear.magnitude is None
        for linears in found
        for linear in linears
    )
    # A call of several takes a bias of each, or none.
    alike = plain and all(len({linear.bias is None for linear in of}) == 1 for of in found)
    return found if alike else None
