"""Attention of rows laid end to end: each by the model's own attention function, unpadded.

The function is found through transformers' registry of attention functions, for every architecture
alike: whatever a layer does to its heads before is its own code.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crucible_kitchen import ops

NAME = "crucible_by_segment"
# Those whose mask can be made here; the others (flash, flex) unpad by themselves.
IMPLEMENTATIONS = ("eager", "sdpa")
# Parts of an attention, by transformers' names, that `ops.varlen_attention` does not have.
_UNSUPPORTED = ("softcap", "position_bias", "s_aux")
# Architectures whose decoder layers do not hand on what else the body's forward is given.
_DROPPING = ("stablelm",)
# Attention layers that turn the whole of each head, by Llama's order of pairs, after their norms.
_ROPE = frozenset(
    f"{name}Attention"
    for name in (
        "Gemma",
        "Gemma2",
        "Gemma3",
        "Granite",
        "Llama",
        "Mistral",
        "Qwen2",
        "Qwen3",
        "SmolLM3",
    )
)


class Segments(NamedTuple):
    """Rows laid end to end.

    Args:
        lengths: tokens of each row, in order.
        implementation: transformers' name of the attention function that computes a row.
        bounds: int64 [rows + 1], where each begins among the T tokens, then T; on the CPU.
    """

    lengths: tuple[int, ...]
    implementation: str
    bounds: Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...], implementation: str) -> Segments:
        """Rows of these lengths, none of them 0."""
        return cls(lengths, implementation, torch.tensor([0, *itertools.accumulate(lengths)]))


def why_not(body: nn.Module) -> str | None:
    """Why attention of a model's body cannot go row by row, or None."""
    config: Any = body.config
    if config._attn_implementation not in IMPLEMENTATIONS:
        return f"transformers' {config._attn_implementation} attention serves it"
    if config.model_type in _DROPPING:
        return "its layers hand attention no arguments of ours"
    if getattr(config, "use_bidirectional_attention", False):
        return "it looks ahead: use_bidirectional_attention"
    return None


def attention_forward(
    part: Any, *args: Any, segments: Segments | None = None, **kwargs: Any
) -> Any:
    """An attention layer's own forward, with its scores taken by segment.

    Args:
        part: an attention layer of transformers.
        args, kwargs: what its forward takes.
        segments: of [1, T, H] hidden states; None leaves the call to the layer.
    """
    if segments is None:
        return NotImplemented
    # The layer looks its function up by a name in its config, which all layers share; for the time
    # of this call it has one of its own. Checkpointing runs this again in the backward pass.
    config = part.config
    part.config = copy.copy(config)
    part.config._attn_implementation = NAME
    try:
        return type(part).forward(part, *args, segments=segments, **kwargs)
    finally:
        part.config = config


def turns_whole_heads(part: nn.Module) -> bool:
    """Whether `rope_forward` is what an attention layer does."""
    return type(part).__name__ in _ROPE and getattr(part, "use_rope", True)


def rope_forward(
    part: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    *,
    segments: Segments | None = None,
    queries: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """As `attention_forward`, with queries and keys turned by `ops.rope`.

    Args:
        part: an attention layer that `turns_whole_heads`.
        hidden_states: [1, T, H].
        position_embeddings: cosines and sines, [1, T, D] each.
        attention_mask, segments, kwargs: see `attention_forward`.
        queries: int64 [n], the tokens whose output is wanted; all of them if None.
    """
    if segments is None or position_embeddings is None:
        return NotImplemented
    width = part.head_dim
    # Both halves of a head turn by the same angles, which transformers writes out twice.
    cos, sin = (angles[0, :, : width // 2].float() for angles in position_embeddings)
    asking = hidden_states if queries is None else hidden_states.index_select(1, queries)
    query, key, value = (
        linear(x)[0].unflatten(1, (-1, width))
        for linear, x in (
            (part.q_proj, asking),
            (part.k_proj, hidden_states),
            (part.v_proj, hidden_states),
        )
    )
    if not ops.OPS["rope"].serves(key, cos, sin):
        whole, _ = attention_forward(
            part, hidden_states, position_embeddings, attention_mask, segments=segments, **kwargs
        )
        return whole if queries is None else whole.index_select(1, queries), None
    if hasattr(part, "q_norm"):
        query, key = part.q_norm(query), part.k_norm(key)
    if queries is None:
        query = ops.rope(query, cos, sin)
    else:
        turned = ops.rope(query, *(angles.index_select(0, queries) for angles in (cos, sin)))
        # Scores are little work beside the products; the others' are taken of zeros, for nobody.
        query = query.new_zeros(key.shape[0], *query.shape[1:]).index_copy(0, queries, turned)
    output, _ = by_segment(
        part,
        query.transpose(0, 1)[None],
        ops.rope(key, cos, sin).transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        None,
        segments=segments,
        scaling=part.scaling,
        dropout=part.attention_dropout if part.training else 0.0,
        sliding_window=_window(part),
        softcap=getattr(part, "attn_logit_softcapping", None),
    )
    output = output.flatten(2)
    return part.o_proj(output if queries is None else output.index_select(1, queries)), None


def _window(part: Any) -> int | None:
    """How far back a layer sees; Mistral's look it up where they need it."""
    window: int | None = getattr(part, "sliding_window", None)
    if type(part).__name__ == "MistralAttention":
        window = part.config.sliding_window
    return window


def by_segment(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    sliding_window: int | None = None,
    read: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each segment to itself; an attention function of transformers.

    Args:
        query: [1, heads, T, D].
        key: [1, kv_heads, T, D].
        value: [1, kv_heads, T, D].
        attention_mask: not looked at; `unpadded` gives one that means nothing.
        segments: their lengths sum to T.
        sliding_window: how many tokens back a query sees, itself included; all if None.
        read: what the last layer is told; layers hand it on.
        options: transformers' other arguments, for its function.

    Returns:
        The heads' outputs [1, T, heads, D], and no attention weights.
    """
    if _is_plain(segments, query, options):
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        scale, bounds = options.get("scaling"), segments.bounds
        output = ops.varlen_attention(q, k, v, bounds, scale=scale, window=sliding_window)
        return output[None], None
    lengths = list(segments.lengths)
    attend = _function(module, segments.implementation)
    # The backward of a split is one concatenation; that of slices adds up zero-filled tensors.
    rows = zip(*(torch.split(t, lengths, dim=2) for t in (query, key, value)), strict=True)
    outputs = []
    for q, k, v in rows:
        mask = _mask(q, sliding_window, segments.implementation)
        outputs.append(attend(module, q, k, v, mask, sliding_window=sliding_window, **options)[0])
    return torch.cat(outputs, dim=1), None


def _is_plain(segments: Segments, query: Tensor, options: dict[str, Any]) -> bool:
    """Whether `ops.varlen_attention` computes it: what sdpa would, on a kernel, without dropout."""
    asked = any(options.get(name) is not None for name in _UNSUPPORTED)
    served: bool = ops.OPS["varlen_attention"].serves(query[0].transpose(0, 1))
    return segments.implementation == "sdpa" and served and not (asked or options.get("dropout"))


def _function(module: nn.Module, implementation: str) -> Callable[..., Any]:
    if implementation == "eager":  # each architecture has its own, and the registry none
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[implementation]  # type: ignore[no-any-return]


def _mask(query: Tensor, window: int | None, implementation: str) -> Tensor | None:
    """What the function needs to be told; of plain causality sdpa knows by itself."""
    length = query.shape[2]
    if implementation == "sdpa" and (window is None or length <= window):
        return None
    seen = torch.ones((length, length), dtype=torch.bool, device=query.device).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    if implementation == "sdpa":
        return seen[None, None]
    zero = query.new_zeros((1, 1, length, length))
    return zero.masked_fill(~seen, torch.finfo(query.dtype).min)


AttentionInterface.register(NAME, by_segment)
