"""The same rotation as transformers writes it out."""

from __future__ import annotations

import torch
from torch import Tensor

from crucible_kitchen.benchmarks.problem import Call, Problem


def calls(problem: Problem) -> dict[str, Call]:
    """`apply_rotary_pos_emb` of transformers' Llama, whose angles are there for both halves."""
    x, cos, sin = problem.leaves()
    wide = [angles.to(x.dtype).repeat(1, 2)[:, None] for angles in (cos, sin)]

    def written_out(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        y: Tensor = x * wide[0] + turned * wide[1]
        return y

    return {"transformers": problem.forward_and_backward(written_out, (x, cos, sin))}
