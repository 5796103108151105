"""`pairwise_loss`: the loss of a reward model, over the scores of two answers to one prompt.

Letters: r_c and r_r the scores of the chosen and the rejected answer, d their difference r_c - r_r,
m the margin, c the centring, s the logistic function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt
import torch
from torch import Tensor

from crucible_kitchen.kernels.row_loss.terms import Settings, Term
from crucible_kitchen.ops.row_loss import row_loss

_TERMS: Final = (Term("bradley_terry"),)

Numbers = Tensor | npt.NDArray[Any] | Sequence[Tensor]
"""One number a pair, [P]; tensors of a sequence are laid end to end."""


def pairwise_loss(
    chosen: Numbers,
    rejected: Numbers,
    margin: Numbers | None = None,
    *,
    ties: Numbers | None = None,
    centering: float = 0.0,
) -> Tensor:
    """-log s(d - m) + c (r_c + r_r)^2 of each pair; differentiable in the scores, by `row_loss`.

    A pair that was judged equal has no better answer: half a win for each, whatever its margin,
    -log s(d) / 2 - log s(-d) / 2, which is smallest at equal scores.

    Args:
        chosen, rejected: scores of the better and the other answer, [P], floating point.
        margin: by how much the chosen score should at least be higher, [P]; None for 0.
        ties: where the two were judged equal, bool [P]; None for nowhere.
        centering: c, at least 0. Scores are known up to a constant only; this pulls it to where
            both scores of a pair sum to 0.

    Returns:
        [P], in the dtype of `chosen` and on its device, where the rest is brought; float64 inside.

    Raises:
        ValueError: shapes differ, or `centering` is negative or not finite.
        TypeError: scores are not floating point, or `ties` not bool.

    Source: Bradley and Terry 1952, https://doi.org/10.2307/2334029; with a margin, Llama 2, Touvron
        et al. 2023, eq. 2, https://arxiv.org/abs/2307.09288; centring, Eisenstein et al. 2023,
        https://arxiv.org/abs/2312.09244
    """
    first = _tensor(chosen)
    if not first.is_floating_point():
        raise TypeError(f"pairwise_loss: chosen must be floating point, got {first.dtype}")
    if not 0.0 <= centering < math.inf:
        raise ValueError(f"pairwise_loss: centering must be finite and at least 0, got {centering}")
    if ties is not None and _tensor(ties).dtype != torch.bool:
        raise TypeError(f"pairwise_loss: ties must be bool, got {_tensor(ties).dtype}")
    return row_loss(
        _like("chosen", first, first, first.dtype),
        _like("rejected", rejected, first, first.dtype),
        None if margin is None else _like("margin", margin, first, torch.float64),
        None if ties is None else _like("ties", ties, first, torch.bool),
        terms=_TERMS,
        settings=Settings(centering=centering),
    )


def _tensor(values: Numbers) -> Tensor:
    return torch.cat(tuple(values)) if isinstance(values, list | tuple) else torch.as_tensor(values)


def _like(name: str, values: Numbers, chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """One argument as a tensor of one number a pair, beside the chosen scores."""
    made = _tensor(values).to(dtype=dtype, device=chosen.device)
    if made.ndim != 1 or made.shape != chosen.shape:
        wanted = "[P]" if chosen.ndim != 1 else f"[P] = {list(chosen.shape)}"
        raise ValueError(f"pairwise_loss: {name} must have shape {wanted}, got {list(made.shape)}")
    return made
