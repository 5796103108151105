"""What every backend of `varlen_attention` brings: a forward, and a backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Forward(NamedTuple):
    """What a forward returns.

    Args:
        out: [T, A, D], in q's dtype.
        lse: log of the sum of the exponentials of a query's scores, [T, A], float32 (float64 from
            float64).
    """

    out: Tensor
    lse: Tensor


class Gradients(NamedTuple):
    """What a backward returns, shaped and typed as q, k and v."""

    q: Tensor
    k: Tensor
    v: Tensor


class Segments(NamedTuple):
    """Where segments lie among the T tokens, and which earlier one each continues.

    Args:
        bounds: where each begins, then T; int64 [segments + 1], on the CPU.
        parents: the earlier segment that each continues, or -1; None where none does.
    """

    bounds: Tensor
    parents: Tensor | None


@dataclass(frozen=True)
class Variant:
    """One backend.

    Args:
        forward: takes q [T, A, D], k and v [T, G, D], the segments, the scale of the scores, and
            how many tokens a query sees (0 for all).
        backward: takes the output's gradient, q, k, v, out, lse, and then the same.
    """

    forward: Callable[..., Forward]
    backward: Callable[..., Gradients]

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens: Tensor,
        *,
        parents: Tensor | None = None,
        scale: float | None = None,
        window: int | None = None,
    ) -> Tensor:
        """The heads' outputs alone, from what the op takes."""
        bounds = cu_seqlens.to("cpu", torch.int64).contiguous()
        segments = Segments(bounds, parents)
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        return self.forward(q, k, v, segments, factor, window or 0).out
