"""TRL's head without logits, at trained positions only.

TRL gives a model's forward an argument ``fused_lm_head``; asked by it, the forward scores each
position of the batch, on the CPU also those whose label is ignored. Here it is handed the trained
positions alone, and what it computes of them is its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_IGNORED = -100
_ASKED = "fused_lm_head"


def has_trl_head(model: Any) -> bool:
    """Whether a model's forward is one that TRL has put in the place of its class's."""
    forward = getattr(model.__dict__.get("forward"), "__func__", None)
    if forward is None:
        return False
    return _ASKED in inspect.signature(forward, follow_wrapped=False).parameters


def trl_forward(previous: Callable[..., Any]) -> Callable[..., Any]:
    """TRL's forward with the positions that are not trained left out.

    Args:
        previous: the function that TRL has put in; the model's body takes ``wanted``.
    """

    def forward(
        model: Any,
        *args: Any,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        fused_lm_head: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head or torch.compiler.is_compiling():
            return NotImplemented
        if shift_labels is None:
            if labels is None:
                return NotImplemented
            shifted, targets = labels[:, 1:], functional.pad(labels[:, 1:], (0, 1), value=_IGNORED)
        else:
            shifted = targets = shift_labels
        keep = shifted != _IGNORED
        if not keep.any():
            return NotImplemented
        wanted = (targets != _IGNORED).flatten().nonzero().squeeze(1)
        trained = shifted[keep][None]
        output = previous(
            model, *args, shift_labels=trained, wanted=wanted, fused_lm_head=True, **kwargs
        )
        return type(output)(**{k: _spread(v, trained, keep) for k, v in output.items()})

    return forward


def _spread(value: Any, like: Tensor, keep: Tensor) -> Any:
    """What was computed of each trained position, where the position is; 0 elsewhere."""
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return value.new_zeros(keep.shape).masked_scatter(keep, value)
