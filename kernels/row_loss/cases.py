"""Inputs of row_loss, for tests and benchmarks: every formula on an odd number of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .preference import PREFERENCE_LOSSES
from .terms import Settings, Term

_PAIRS = ("bradley_terry", *PREFERENCE_LOSSES)
_POLICY = ("importance_sampling", "ppo", "cispo", "dro")
_SMOOTHED = {"sigmoid", "robust", "exo_pair"}


class Size(NamedTuple):
    """Formulas and rows."""

    formulas: tuple[str, ...]
    rows: int
    divergence: str = "reverse_kl"


SIZES: dict[str, Size] = {
    "empty": Size(("sigmoid",), 0),
    "one_row": Size(("ppo",), 1),
    "odd": Size(("sigmoid",), 131),
    "mixture": Size(("sigmoid", "ipo", "apo_zero"), 37),
    "many_chunks": Size(("bradley_terry",), 3 * 1024 + 5),
    **{f"odd_{name}": Size((name,), 131) for name in (*_PAIRS, *_POLICY)},
    **{f"odd_{name}": Size(("sigmoid",), 67, name) for name in ("forward_kl", "js", "alpha")},
}
BENCHMARK_SIZES: dict[str, Size] = {
    "dpo_64_pairs": Size(("sigmoid",), 64),
    "ppo_8192_tokens": Size(("ppo",), 8192),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
GRADIENTS = (0, 1)


def inputs(size: Size, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor | None, ...]:
    """The columns: first and second in dtype, constants in float32, but for ties, which are bool.

    Some rows are so far out that a logistic function is 0 or 1 there.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float, mean: float = 0.0) -> Tensor:
        return mean + scale * torch.randn(size.rows, generator=generator)

    def place(tensor: Tensor, wanted: torch.dtype = torch.float32) -> Tensor:
        return tensor.to(device=device, dtype=wanted)

    if size.formulas[0] in _POLICY:  # a token: probabilities that are near each other
        lp = draw(1.0, -2.0)
        q, advantage = lp - draw(0.4), draw(1.0)
        return place(lp, dtype), None, place(q), place(advantage)
    if size.formulas[0] == "bradley_terry":
        ties = torch.rand(size.rows, generator=generator) < 0.2
        return place(draw(3.0), dtype), place(draw(3.0), dtype), place(draw(0.5)), ties.to(device)
    chosen, rejected = draw(8.0, -40.0), draw(8.0, -40.0)
    # Beyond reverse KL the exponential of a log ratio stands for it.
    spread = 4.0 if size.divergence == "reverse_kl" else 1.0
    references = chosen + draw(spread), rejected + draw(spread)
    if size.divergence == "reverse_kl":
        chosen = torch.where(torch.rand(size.rows, generator=generator) < 0.1, chosen * 8, chosen)
    lengths = (torch.randint(1, 30, (size.rows,), generator=generator) for _ in range(2))
    constants = (place(one) for one in (*references, *lengths, draw(0.2).abs()))
    return place(chosen, dtype), place(rejected, dtype), *constants


def options(size: Size) -> dict[str, object]:
    """Keyword arguments: settings with which every one of them matters."""
    return {
        "terms": [
            Term(name, 1.0 + 0.5 * i, 0.1 if name in _SMOOTHED else 0.0)
            for i, name in enumerate(size.formulas)
        ],
        "settings": Settings(
            beta=0.3, reward_mean=0.15, centering=0.02, alpha=0.7, divergence=size.divergence
        ),
    }


def work(size: Size, dtype: torch.dtype) -> tuple[float, float]:
    """Flops and bytes at the least: what is trained in dtype, loss and slopes, four constants."""
    trained = 1 if size.formulas[0] in _POLICY else 2
    flops = 60 * len(size.formulas) * size.rows
    return flops, size.rows * ((2 * trained + 1) * dtype.itemsize + 8 * trained + 16)
