"""Which rows each optimizer step works on, and which of them go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from crucible_kitchen.data.batches import BatchOrder, permutation
from crucible_kitchen.data.packing import best_fit
from crucible_kitchen.types import Datum

T = TypeVar("T")

ORDERS: Final = ("shuffled", "by_length", "as_given")
"""Rows in an order of each epoch's own; likewise, with rows of like length in a step; or as they
came, in every epoch."""


@dataclass(frozen=True)
class StepOrder:
    """The rows of every step of every epoch.

    Each row comes once an epoch, and an epoch's order depends on `(seed, epoch)` and the arguments
    alone. All epochs have as many steps; the last one of an epoch may have fewer rows.

    Args:
        sizes: tokens of each row.
        batch_size: rows that go through the model at a time, where `pack_tokens` is None.
        gradient_accumulation: batches, or packs, of a step.
        seed: in [0, 2^64).
        order: one of `ORDERS`.
        pack_tokens: most tokens that go through the model at a time; a step is then so many packs.
    """

    sizes: Sequence[int]
    batch_size: int
    gradient_accumulation: int
    seed: int
    order: str = "shuffled"
    pack_tokens: int | None = None

    def __len__(self) -> int:
        """Steps of an epoch."""
        if self.pack_tokens is None:
            return len(self._rows())
        packs = best_fit(self.sizes, self.pack_tokens)
        return -(-len(packs) // self.gradient_accumulation)

    def epoch(self, epoch: int) -> list[list[int]]:
        """Places of the rows of each step of an epoch."""
        if self.pack_tokens is None:
            return self._rows().epoch(epoch)
        random = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
        shuffled = self.order != "as_given"
        count = len(self.sizes)
        rows = permutation(random, count).tolist() if shuffled else list(range(count))
        packs = best_fit([self.sizes[row] for row in rows], self.pack_tokens)
        # Packs are made from the longest row down; in that order an epoch would end with the short.
        turn = permutation(random, len(packs)) if shuffled else np.argsort([min(p) for p in packs])
        steps = [turn[i : i + self.gradient_accumulation] for i in self._starts(len(packs))]
        return [[rows[place] for pack in step for place in packs[pack]] for step in steps]

    def _starts(self, packs: int) -> range:
        return range(0, packs, self.gradient_accumulation)

    def _rows(self) -> BatchOrder:
        return BatchOrder(
            len(self.sizes),
            self.batch_size * self.gradient_accumulation,
            self.seed,
            shuffle=self.order != "as_given",
            lengths=self.sizes if self.order == "by_length" else None,
        )


def micro_batches(
    rows: Sequence[T], sizes: Sequence[int], batch_size: int, pack_tokens: int | None
) -> list[list[T]]:
    """The rows of one step, cut into what goes through the model at a time.

    Args:
        rows: of one step of a `StepOrder`.
        sizes: tokens of each.
    """
    if pack_tokens is None:
        return [list(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
    # The rows of some packs, packed again, give the same packs: where a row went depended only on
    # the packs that had room for it, and of these the other packs of the epoch were no better.
    return [[rows[place] for place in pack] for pack in best_fit(sizes, pack_tokens)]


def size_of(item: Datum | Sequence[Datum]) -> int:
    """Tokens of a datum, or of all that belong to one row."""
    if isinstance(item, Datum):
        return item.model_input.length
    return sum(datum.model_input.length for datum in item)
