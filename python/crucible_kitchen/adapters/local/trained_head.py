"""Log-probabilities by a head over the vocabulary that is trained itself.

The op for a frozen head never holds a row of logits. Gradients of an update of the head need them
all, so they are made for some rows at a time, and made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crucible_kitchen.nn import LoraLinear

# Logits of so many rows are 50 MB for a vocabulary of 50 000.
_ROWS: Final = 256
_WORDS: Final = 8192


def logprobs(head: LoraLinear, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities in nats, float32 [n], of one target each after hidden states [n, H]."""
    split = zip(torch.split(hidden, _ROWS), torch.split(targets, _ROWS), strict=True)
    parts = [(number, *part) for number, part in enumerate(split)]
    if not torch.is_grad_enabled():
        return torch.cat([_logprobs(head, *part) for part in parts])
    made = (checkpoint(_logprobs, head, *part, use_reentrant=False) for part in parts)
    return torch.cat(list(made))


def topk(
    head: torch.nn.Linear | LoraLinear, hidden: Tensor, k: int
) -> Iterator[list[tuple[int, float]]]:
    """The `k` likeliest next tokens after each of the hidden states [n, H], likeliest first."""
    for part in torch.split(hidden, _ROWS):
        logits = head(part).float() if isinstance(head, LoraLinear) else _exact(head.weight, part)
        values, tokens = (logits - logits.logsumexp(1, keepdim=True)).topk(k)
        for row in zip(tokens.tolist(), values.tolist(), strict=True):
            yield list(zip(*row, strict=True))


def _exact(weight: Tensor, hidden: Tensor) -> Tensor:
    """Logits in float32, some words at a time: as bfloat16 they would be off by up to 0.2 nat."""
    wide = hidden.float()
    parts = [functional.linear(wide, words.float()) for words in torch.split(weight, _WORDS)]
    return torch.cat(parts, dim=1)


def _logprobs(head: LoraLinear, part: int, hidden: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = head(hidden, part).float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
