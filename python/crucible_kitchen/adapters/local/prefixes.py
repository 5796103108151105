"""Sequences of a batch as a tree: what several of them begin with is there, and computed, once.

A system prompt, an instruction that comes with several answers, the prompt of a preference pair or
of a group of rollouts: a causal model gives the tokens of a common beginning the same hidden states
in every sequence. Gradients of all of them meet where they part, by the chain rule: nothing is
approximated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]

# A shorter beginning is computed again: each branch costs every layer a tile of attention that is
# not full.
WORTH_SHARING = 16


@dataclass(frozen=True)
class Tree:
    """Segments of tokens, each after the segment it continues.

    Args:
        tokens: of all segments, end to end, [T].
        positions: of each token in its sequences, [T].
        lengths: of the segments, which sum to T.
        parents: the segment that each continues, or -1 where it starts a sequence.
        places: where the tokens of each sequence are among the T.
    """

    tokens: Tokens
    positions: Tokens
    lengths: tuple[int, ...]
    parents: tuple[int, ...]
    places: tuple[Tokens, ...]


def tree_of(sequences: Sequence[Sequence[int]], *, at_least: int = WORTH_SHARING) -> Tree:
    """The tree of some sequences, none of them empty.

    Args:
        at_least: beginnings shorter than this are not shared; what remains of a sequence beyond a
            shared beginning may be shorter, or nothing.

    Returns:
        Segments in the order of the sequences that first need them.
    """
    growing = _Growing([np.asarray(sequence, np.int64) for sequence in sequences], at_least)
    growing.grow(list(range(len(sequences))), 0, -1)
    return Tree(
        np.concatenate(growing.segments),
        np.concatenate(growing.positions),
        tuple(len(segment) for segment in growing.segments),
        tuple(growing.parents),
        tuple(np.concatenate(places) for places in growing.places),
    )


class _Growing:
    """A tree as it grows, branch by branch."""

    def __init__(self, sequences: list[Tokens], at_least: int) -> None:
        self.sequences, self.at_least = sequences, max(1, at_least)
        self.segments: list[Tokens] = []
        self.positions: list[Tokens] = []
        self.parents: list[int] = []
        self.places: list[list[Tokens]] = [[] for _ in sequences]
        self.size = 0

    def grow(self, members: list[int], start: int, parent: int) -> None:
        """Add what some sequences have beyond their first `start` tokens, which all share."""
        for group, shared in self._groups(members, start):
            end = shared if len(group) > 1 else len(self.sequences[group[0]])
            if end > start:
                branch = self._add(group, start, end, parent)
                if len(group) > 1:
                    self.grow(group, end, branch)

    def _add(self, group: list[int], start: int, end: int, parent: int) -> int:
        self.segments.append(self.sequences[group[0]][start:end])
        self.positions.append(np.arange(start, end))
        self.parents.append(parent)
        for member in group:
            self.places[member].append(np.arange(self.size, self.size + end - start))
        self.size += end - start
        return len(self.segments) - 1

    def _groups(self, members: list[int], start: int) -> list[tuple[list[int], int]]:
        """Members that share enough beyond `start`, each group with how far all of it agrees."""
        ordered = sorted(members, key=lambda member: self.sequences[member][start:].tolist())
        groups = [([ordered[0]], len(self.sequences[ordered[0]]))]
        for before, member in itertools.pairwise(ordered):
            agree = _common(self.sequences[before], self.sequences[member])
            group, shared = groups[-1]
            if agree - start >= self.at_least:
                groups[-1] = ([*group, member], min(shared, agree))
            else:
                groups.append(([member], len(self.sequences[member])))
        return sorted((sorted(group), shared) for group, shared in groups)


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with together."""
    length = min(len(a), len(b))
    apart = np.flatnonzero(a[:length] != b[:length])
    return int(apart[0]) if len(apart) else length
