"""The same sequences through torch's own attention, one after the other and padded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`scaled_dot_product_attention`, which knows neither trees nor windows."""
    if problem.size.parents is not None or problem.size.window is not None:
        return {}
    lengths = list(problem.size.lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, T, heads, D] each."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        made = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return made.transpose(1, 2)

    def in_turn(q: Tensor, k: Tensor, v: Tensor, _: Tensor, **options: object) -> Tensor:
        each = zip(*(torch.split(t, lengths) for t in (q, k, v)), strict=True)
        return torch.cat([attend(q[None], k[None], v[None])[0] for q, k, v in each])

    def padded(q: Tensor, k: Tensor, v: Tensor, _: Tensor, **options: object) -> Tensor:
        rows = (list(torch.split(t, lengths)) for t in (q, k, v))
        made = attend(*(pad_sequence(row, batch_first=True) for row in rows))
        return torch.cat([row[:length] for row, length in zip(made, lengths, strict=True)])

    return {
        "sdpa in turn": problem.forward_and_backward(in_turn, problem.leaves()),
        "sdpa padded": problem.forward_and_backward(padded, problem.leaves()),
    }
