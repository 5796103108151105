"""The last decoder layer of Llama and Mistral, computed at the tokens that somebody reads.

Every token's keys and values are of use to those after it; its query, its part of the attention's
output and its MLP are not, once no layer follows. Most tokens of instruction data are prompts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from crucible_kitchen.adapters.local import rotary
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward

# Exactly these: others norm or scale what a layer adds.
_KINDS = (LlamaDecoderLayer, MistralDecoderLayer)


def fuse(model: nn.Module) -> bool:
    """Let the last layer take ``wanted``, if it is of a known kind; after `rotary.fuse`.

    Returns:
        Whether it does now: ``base_model(..., wanted=rows)`` gives the hidden states at those
        rows of packed sequences, int64 [n] in increasing order, as [1, n, H].
    """
    layers: Any = getattr(model.base_model, "layers", [None])
    last = layers[-1]
    if type(last) not in _KINDS or is_replaced(last) or not rotary.is_fused(last.self_attn):
        return False
    put_forward(last, _forward, Switch())
    return True


def _forward(
    layer: Any, hidden_states: Tensor, *args: Any, wanted: Tensor | None = None, **options: Any
) -> Any:
    """Of packed sequences, [1, T, H]; the layer's own where nobody says what is wanted."""
    if wanted is None or args:
        return NotImplemented
    attended, _ = layer.self_attn(layer.input_layernorm(hidden_states), queries=wanted, **options)
    hidden = hidden_states.index_select(1, wanted) + attended
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
