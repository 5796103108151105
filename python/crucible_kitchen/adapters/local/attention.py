"""Attention over sequences laid end to end, as an attention function of transformers.

Nothing is padded and no [T, T] mask is built: every segment attends to itself and to the segments
that it continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from crucible_kitchen import ops
from crucible_kitchen.errors import KernelError
from crucible_kitchen.kernels.varlen_attention.variant import Segments

NAME = "crucible_varlen"
# Parts of an attention that some models ask for by these names; ignoring one would be wrong.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Sequence[int] | None = None,
    parents: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention with grouped key-value heads along a tree of segments.

    Args:
        query: [B, heads, T, D].
        key: [B, kv_heads, S, D]; S > T (one segment only) when earlier keys come from a cache.
        value: [B, kv_heads, S, D].
        attention_mask: must be None; there is nothing to mask.
        scaling: of the scores, ``1 / sqrt(D)`` if None.
        sliding_window: how many tokens back a query sees, itself included; all if None.
        segments: lengths of the segments along T, which they sum to; one segment if None.
        parents: the earlier segment that each continues, and sees with all that this one continues,
            or -1; none continues another if None.
        options: transformers' other arguments. Dropout on attention weights is not applied: only
            the LoRA branch of a frozen model drops anything.

    Returns:
        The heads' outputs [B, T, heads, D], and no attention weights.

    Raises:
        KernelError: the model asks for a kind of attention that this is not.
    """
    asked = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if attention_mask is not None:
        asked.append("attention_mask")
    if asked:
        kind = type(module).__name__
        raise KernelError(f"attention: {kind} must not need {', '.join(asked)}, but it does")
    if len(query) > 1 or query.shape[2] != key.shape[2]:  # padded, or after a cache
        return _attend(query, key, value, scaling, sliding_window).transpose(1, 2), None
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    bounds, links = segments_of(segments, parents, len(q))
    output = ops.varlen_attention(
        q, k, v, bounds, parents=links, scale=scaling, window=sliding_window
    )
    return output[None], None


def segments_of(
    lengths: Sequence[int] | None, parents: Sequence[int] | None, tokens: int
) -> Segments:
    """What kernels take for the lengths and the parents of segments, as `varlen_attention` has
    them."""
    bounds = _bounds((tokens,) if lengths is None else tuple(lengths))
    return Segments(bounds, None if parents is None or max(parents) < 0 else _links(tuple(parents)))


# Every layer of a pass asks for the same.
@lru_cache(maxsize=4)
def _bounds(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)])


@lru_cache(maxsize=4)
def _links(parents: tuple[int, ...]) -> Tensor:
    return torch.tensor(parents)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    mask = None
    if queries > 1 and (queries != keys or (window is not None and keys > window)):
        mask = _band(queries, keys, window, query.device)
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and queries > 1,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query sees a key; the last query stands at the last key."""
    distance = (
        torch.arange(keys - queries, keys, device=device)[:, None]
        - torch.arange(keys, device=device)[None, :]
    )
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def register() -> None:
    """Make the function known to transformers under `NAME`; doing it again changes nothing."""
    AttentionInterface.register(NAME, varlen_attention)
