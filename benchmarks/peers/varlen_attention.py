"""The same sequences through torch's own attention, one after the other and padded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`scaled_dot_product_attention`, which knows neither trees nor windows."""
    if problem.size.parents is not None or problem.size.window is not None:
        return {}
    lengths = list(problem.size.lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, T, heads, D] each."""
        heads = (t.transpose(1, 2) for t in (q, k, v))
        made = functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        return made.transpose(1, 2)

    def in_turn(q: Tensor, k: Tensor, v: Tensor, _: Tensor, **options: object) -> Tensor:
        parts = zip(*(t.split(lengths) for t in (q, k, v)), strict=True)
        return torch.cat([attend(*(part[None] for part in parts_of))[0] for parts_of in parts])

    def padded(q: Tensor, k: Tensor, v: Tensor, _: Tensor, **options: object) -> Tensor:
        wide = (
            torch.nn.utils.rnn.pad_sequence(t.split(lengths), batch_first=True) for t in (q, k, v)
        )
        made = attend(*wide)
        return torch.cat([row[:length] for row, length in zip(made, lengths, strict=True)])

    return {
        "sdpa in turn": problem.forward_and_backward(in_turn, problem.leaves()),
        "sdpa padded": problem.forward_and_backward(padded, problem.leaves()),
    }
