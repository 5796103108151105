"""The last decoder layer of Llama and Mistral, computed at the tokens whose hidden states are read.

Keys and values of the others are of use to those after them; their queries and their MLP are not,
once no layer follows. Most tokens of instruction data are prompts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crucible_kitchen.nn.forwards import is_replaced

# Of transformers, exactly these: others norm or scale what a layer adds.
_KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer")


def last_layer(body: nn.Module) -> Any:
    """The last layer of a model's body, if `layer_forward` is what it does; None otherwise."""
    last = _last(body)
    known = type(last).__name__ in _KINDS and type(last).__module__.startswith("transformers.")
    return last if known and not is_replaced(last) else None


def takes_read(body: nn.Module) -> bool:
    """Whether `layer_forward` has been put into a body's last layer, which so takes ``read``."""
    put: Any = getattr(_last(body).__dict__.get("forward"), "__func__", None)
    return getattr(put, "runs", None) is layer_forward and put.switch.on


def _last(body: nn.Module) -> Any:
    layers: Any = getattr(body, "layers", None)
    return layers[-1] if layers else body


def layer_forward(
    layer: Any, hidden_states: Tensor, *args: Any, read: Tensor | None = None, **options: Any
) -> Any:
    """A decoder layer's output at some tokens.

    Args:
        layer: of one of the known kinds; its attention takes ``queries``, those tokens.
        hidden_states: [1, T, H].
        args, options: what its forward takes.
        read: int64 [n], tokens in increasing order; None leaves the call to the layer.

    Returns:
        [1, n, H].
    """
    if read is None or args:
        return NotImplemented
    attended, _ = layer.self_attn(layer.input_layernorm(hidden_states), queries=read, **options)
    hidden = hidden_states.index_select(1, read) + attended
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
