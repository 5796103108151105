"""The attention of Llama and Mistral with `ops.rope`: one pass over the heads instead of five."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention

from crucible_kitchen import ops
from crucible_kitchen.adapters.local.attention import varlen_attention
from crucible_kitchen.nn.forwards import Switch, is_replaced, put_forward
from crucible_kitchen.nn.last_layer import last_layer, layer_forward

# Exactly these: others norm their heads, or turn only part of them.
_KINDS = (LlamaAttention, MistralAttention)


def fuse(model: nn.Module) -> int:
    """Let `ops.rope` turn the heads of every attention that is one of the known kinds, in place.

    The last layer takes ``read`` then, the tokens at which somebody reads its output.

    Returns:
        How many there are.
    """
    found = [m for m in model.modules() if type(m) in _KINDS and not is_replaced(m)]
    switch = Switch()
    for module in found:
        put_forward(module, _attention, switch)
    last = last_layer(model.base_model)  # type: ignore[arg-type]
    if last is not None and last.self_attn in found:
        put_forward(last, layer_forward, switch)
    return len(found)


# Every layer of a pass asks for the same.
@lru_cache(maxsize=1)
def half(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The angles of half a head, [T, D / 2] from [1, T, D], float32: both turn by the same, which
    transformers writes out twice."""
    width = cos.shape[-1] // 2
    cos, sin = (angles[0, :, :width].float().contiguous() for angles in (cos, sin))
    return cos, sin


def _attention(
    part: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    *,
    queries: Tensor | None = None,
    **options: Any,
) -> Any:
    """Of packed sequences, [1, T, H]; with a cache, as in sampling, the class's own runs.

    Args:
        queries: int64 [n], the tokens whose output is wanted; all of them if None.
    """
    cached = any(options.get(name) is not None for name in ("cache", "past_key_values"))
    if cached or len(hidden_states) != 1:
        return NotImplemented
    width = part.head_dim
    cos, sin = half(*position_embeddings)
    x = hidden_states[0]
    asking = x if queries is None else x.index_select(0, queries)
    projected = (part.q_proj(asking), part.k_proj(x), part.v_proj(x))
    query, key, value = (t.view(len(t), -1, width) for t in projected)
    if queries is None:
        query = ops.rope(query, cos, sin)
    else:
        turned = ops.rope(query, *(angles.index_select(0, queries) for angles in (cos, sin)))
        # Scores are little work beside the products; the others' are taken of zeros, for nobody.
        query = query.new_zeros(len(x), *query.shape[1:]).index_copy(0, queries, turned)
    output, _ = varlen_attention(
        part,
        query.transpose(0, 1)[None],
        ops.rope(key, cos, sin).transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attention_mask,
        scaling=part.scaling,
        sliding_window=getattr(part.config, "sliding_window", None),
        **options,
    )
    output = output.flatten(2)
    return part.o_proj(output if queries is None else output.index_select(1, queries)), None
