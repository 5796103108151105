"""Sequences laid end to end, which go through a model together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from crucible_kitchen.adapters.local.prefixes import WORTH_SHARING, Tokens, tree_of

T = TypeVar("T")


@dataclass(frozen=True)
class Packed:
    """Sequences laid end to end, with what several of them begin with there once.

    Args:
        tokens: int64 [T].
        positions: int64 [T], of each token in its sequences.
        lengths: of the segments, in order; they sum to T.
        parents: the segment that each continues, or -1 where it starts a sequence.
        places: int64, for each sequence where its tokens are among the T.
    """

    tokens: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    places: tuple[Tokens, ...]

    @classmethod
    def of(
        cls,
        sequences: Sequence[Sequence[int]],
        device: torch.device,
        *,
        share_at_least: int = WORTH_SHARING,
    ) -> Packed:
        """Pack token sequences, none of them empty; see `tree_of` for what is shared."""
        tree = tree_of(sequences, at_least=share_at_least)
        tokens, positions = (torch.from_numpy(t).to(device) for t in (tree.tokens, tree.positions))
        return cls(tokens, positions, tree.lengths, tree.parents, tree.places)

    @classmethod
    def end_to_end(cls, parts: Sequence[Packed]) -> Packed:
        """Several as one, in which nothing is shared that was not before."""
        if len(parts) == 1:
            return parts[0]
        segments, parents, places = 0, [], []
        for part, first in zip(parts, starts(parts), strict=True):
            parents += [p if p < 0 else p + segments for p in part.parents]
            places += [place + first for place in part.places]
            segments += len(part.lengths)
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.positions for part in parts]),
            tuple(length for part in parts for length in part.lengths),
            tuple(parents),
            tuple(places),
        )


def starts(parts: Sequence[Packed]) -> list[int]:
    """Where each begins when they are laid end to end."""
    return [0, *itertools.accumulate(len(part.tokens) for part in parts[:-1])]


def groups(items: Sequence[T], lengths: Sequence[int], most: int) -> Iterator[list[T]]:
    """Items in order, in groups whose lengths sum to at most `most`, or of one longer item."""
    group: list[T] = []
    size = 0
    for item, length in zip(items, lengths, strict=True):
        if group and size + length > most:
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group
