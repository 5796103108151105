"""Host side of the Triton variant: blocks of the vocabulary, scratch, and the last few digits.

The scratch is bounded whatever T is; everything else is [T], [tiles, T] or a result.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from crucible_kitchen.kernels.common.launcher import (
    DTYPES,
    Launcher,
    architecture_of,
    cdiv,
    dense,
)

from . import builds
from .variant import Forward, Variant

# Entries of the scratch of one block of the vocabulary: 64 MiB in bfloat16.
SCRATCH_ENTRIES = 1 << 25
# Keeps probabilities near 1e-8 normal numbers in a float16 scratch; a power of two rounds nothing.
LIFT = 4096.0


def variant(launch: Launcher) -> Variant:
    """The Triton kernels as a variant, started by `launch`."""
    return Variant(partial(_forward, launch), partial(_grad_weight, launch))


def _forward(
    launch: Launcher,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
    want_slope: bool = True,
) -> Forward:
    """See `reference.forward`; hidden and weight share one of float32, float16 and bfloat16."""
    V, H = weight.shape
    head = _Head(launch, hidden, weight, targets, logit_softcap)
    # A softcap bends every logit of a token differently, so its even share has to wait for the lse.
    even_waits = logit_softcap != 0.0 and label_smoothing != 0.0
    running, slope = head.read(
        totals=label_smoothing != 0.0, gather_slope=want_slope and not even_waits
    )
    others = running.top + running.summed.log()
    lse = torch.logaddexp(others, running.at_target)
    miss = torch.sigmoid(others - running.at_target)
    # -log(1 + exp(others - target)) keeps its digits near 0; the difference to lse does not.
    logprobs = torch.nn.functional.logsigmoid(running.at_target - others)
    if label_smoothing != 0.0:
        logprobs = (1 - label_smoothing) * logprobs + label_smoothing * (running.total / V - lse)
    if not want_slope:
        return Forward(logprobs, lse, miss, hidden.new_empty((0, H), dtype=torch.float32))
    even_share = label_smoothing / V
    bend = 1 - (running.at_target / logit_softcap) ** 2 if logit_softcap else 1.0
    at_row = miss - label_smoothing
    if even_waits:
        slope = head.slope_given(lse, even_share)
        at_row = at_row + even_share
    else:
        slope *= -torch.exp(running.top - lse)[:, None]
        if label_smoothing != 0.0:
            slope += weight.sum(0, dtype=torch.float32) * even_share
    slope.addcmul_(weight[targets].float(), (bend * at_row)[:, None])
    return Forward(logprobs, lse, miss, slope)


def _grad_weight(
    launch: Launcher,
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    miss: Tensor,
    logit_softcap: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """See `reference.grad_weight`; the logits are computed a second time, block by block."""
    even_share = label_smoothing / weight.shape[0]
    head = _Head(launch, hidden, weight, targets, logit_softcap)
    return head.gradient(grad.float(), lse, miss - label_smoothing + even_share, even_share)


class _Running(NamedTuple):
    """Statistics of each token over the vocabulary so far, [T] float32; the target stays outside.

    Args:
        top, summed: maximum of the other tokens' logits, and the sum of exp(logit - top).
        total: sum of all logits, for label smoothing.
        at_target: the target's logit.
        rescale: what the last change of `top` makes of sums kept until then.
    """

    top: Tensor
    summed: Tensor
    total: Tensor
    at_target: Tensor
    rescale: Tensor


class _Head:
    """One pass over the head: launches block by block, and the scratch they share."""

    def __init__(
        self, launch: Launcher, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float
    ) -> None:
        self.launch = launch
        self.hidden, self.weight = dense(hidden), dense(weight)
        self.targets, self.softcap = targets.contiguous(), softcap
        self.T, self.H = hidden.shape
        self.V = weight.shape[0]
        self.key = DTYPES[hidden.dtype], architecture_of(hidden)
        self.tiles = builds.tiles_of(*self.key)
        width = self.tiles.n
        self.block = min(self.V, max(SCRATCH_ENTRIES // self.T // width, 1) * width)
        self.scratch = hidden.new_empty(self.T * self.block)

    def read(self, *, totals: bool, gather_slope: bool) -> tuple[_Running, Tensor]:
        """Statistics of all tokens, and sum over v of exp(logit_v - top) weight_v where asked."""
        running = _Running(*self.hidden.new_zeros((5, self.T), dtype=torch.float32))
        running.top.fill_(-torch.inf)
        slope = self._zero_slope()
        for first in range(0, self.V, self.block):
            tile_top, tile_summed, tile_total = self._tile_statistics(first)
            self._score(
                first, (tile_top, tile_summed, tile_total, running.at_target),
                TOTALS=totals, STORE=gather_slope,
            )  # fmt: skip
            self.launch(
                "linear_logprobs.merge",
                (cdiv(self.T, self.tiles.m),),
                (
                    tile_top, tile_summed, tile_total,
                    running.top, running.summed, running.total, running.rescale,
                    self.T, tile_top.shape[0],
                ),
                builds.merge(*self.key, totals=totals),
            )  # fmt: skip
            if gather_slope:
                self._gather_slope(first, tile_top, running.rescale, slope)
        return running, slope

    def slope_given(self, lse: Tensor, even_share: float) -> Tensor:
        """Sum over v of (even_share - p_tv) bend_tv weight_v without the target's own, [T, H]."""
        slope, ones = self._zero_slope(), torch.ones_like(lse)
        for first in range(0, self.V, self.block):
            self._score(
                first, (), (lse, torch.zeros_like(lse), torch.full_like(lse, LIFT)), even_share
            )
            factor = torch.ones_like(self._tile_statistics(first)[0])
            self._gather_slope(first, factor, ones, slope)
        return slope.div_(LIFT)

    def gradient(self, grad: Tensor, lse: Tensor, at_target: Tensor, even_share: float) -> Tensor:
        """Sum over t of grad_t (q_tv - p_tv) bend_tv hidden_t, [V, H] in the head's dtype."""
        # An all-zero gradient divides by the smallest normal number instead, and stays zero.
        lift = LIFT / grad.abs().amax().clamp_min(torch.finfo(torch.float32).tiny * LIFT)
        dw, unlift = torch.empty_like(self.weight), 1 / lift
        for first in range(0, self.V, self.block):
            columns = self._columns(first)
            self._score(first, (), (lse, at_target, grad * lift), even_share)
            self.launch(
                "linear_logprobs.gather_head",
                (cdiv(columns, self.tiles.n), cdiv(self.H, self.tiles.k)),
                (self.scratch, self.hidden, dw, unlift, self.T, self.H, first, columns),
                builds.product(*self.key),
            )
        return dw

    def _score(
        self,
        first: int,
        written: tuple[Tensor, ...],
        given: tuple[Tensor, ...] = (),
        even_share: float = 0.0,
        *,
        TOTALS: bool = False,
        STORE: bool = True,
    ) -> None:
        columns = self._columns(first)
        choices = builds.score_choices(
            softcap=self.softcap != 0.0, totals=TOTALS, store=STORE, given_lse=bool(given)
        )
        self.launch(
            "linear_logprobs.score",
            (cdiv(self.T, self.tiles.m) * cdiv(columns, self.tiles.n),),
            (
                self.hidden, self.weight, self.targets, self.scratch,
                *(written or (None,) * 4), *(given or (None,) * 3),
                self.T, self.H, first, columns, self.softcap or 1.0, even_share,
            ),
            builds.product(*self.key, **choices),
        )  # fmt: skip

    def _gather_slope(self, first: int, factor: Tensor, rescale: Tensor, slope: Tensor) -> None:
        self.launch(
            "linear_logprobs.gather_slope",
            (cdiv(self.T, self.tiles.m), cdiv(self.H, self.tiles.k)),
            (
                self.scratch, self.weight, factor, rescale, slope,
                self.T, self.H, first, self._columns(first),
            ),
            builds.product(*self.key),
        )  # fmt: skip

    def _columns(self, first: int) -> int:
        return min(self.block, self.V - first)

    def _tile_statistics(self, first: int) -> Tensor:
        tiles = cdiv(self._columns(first), self.tiles.n)
        return self.hidden.new_empty((3, tiles, self.T), dtype=torch.float32)

    def _zero_slope(self) -> Tensor:
        return self.hidden.new_zeros((self.T, self.H), dtype=torch.float32)
