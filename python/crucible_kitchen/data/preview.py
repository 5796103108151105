"""What a run would train on, before it trains: rows as they are read, and what became of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from crucible_kitchen.data.columns import Place
from crucible_kitchen.errors import DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Datum

_MOST_PROBLEMS: Final = 10


class Piece(NamedTuple):
    """Neighbouring tokens as text, and whether they are trained."""

    text: str
    trained: bool


class Seen(NamedTuple):
    """One row that is kept.

    Args:
        place: where it is in its data set.
        parts: its sequences by name, such as ``chosen`` and ``rejected``; one without a name.
        cut: whether it was too long.
    """

    place: Place
    parts: dict[str, Datum]
    cut: bool

    @property
    def tokens(self) -> int:
        """Tokens of its longest sequence, the last target included."""
        return 1 + max(datum.model_input.length for datum in self.parts.values())

    @property
    def trained(self) -> int:
        """Trained tokens of all its sequences."""
        return sum(datum.num_trained_tokens for datum in self.parts.values())


class Left(NamedTuple):
    """A row that is left out by choice, and why."""

    why: str


@dataclass(frozen=True)
class Preview:
    """What became of the rows.

    Args:
        rows: those that are kept, in order.
        left: why rows are left out -> how many.
        held_out: rows that are evaluated instead.
        max_length: most tokens of a sequence.
        tokenizer: what the rows were read with.
    """

    rows: list[Seen]
    left: dict[str, int]
    held_out: int
    max_length: int
    tokenizer: Tokenizer

    def pieces(self, datum: Datum) -> list[Piece]:
        """A datum of it as text, in stretches that are trained or are not."""
        return pieces(datum, self.tokenizer)


Placed = tuple[Sequence[Any], Sequence[Place]]
"""Rows, and of each its place in the data set."""


def look(
    train: Placed, held_out: Placed, read: Callable[[Any, Place], Seen | Left]
) -> tuple[list[Seen], dict[str, int]]:
    """Read every row, and say of all that cannot be used which they are and why.

    Args:
        train, held_out: the rows of a run; what cannot be used of either would end it.
        read: what becomes of one.
    Returns:
        The rows that would be trained, and how many are left out by the reason.
    Raises:
        DataError: some cannot be used; the message names the first of them.
    """
    seen: list[Seen] = []
    left: dict[str, int] = {}
    problems: list[str] = []
    for kind, (rows, places) in (("", train), ("held out: ", held_out)):
        for row, place in zip(rows, places, strict=True):
            try:
                found = read(row, place)
            except DataError as error:
                problems.append(f"{kind}{error}")
                continue
            if kind:
                continue
            if isinstance(found, Left):
                left[found.why] = left.get(found.why, 0) + 1
            else:
                seen.append(found)
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        count = len(train[0]) + len(held_out[0])
        lines = [f"{len(problems):,} of {count:,} rows cannot be used:"]
        lines += [f"  {problem}" for problem in problems[:_MOST_PROBLEMS]]
        raise DataError("\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])]))
    return seen, left


def pieces(datum: Datum, tokenizer: Tokenizer) -> list[Piece]:
    """A datum as text, in stretches that are trained or are not."""
    targets = datum.loss_fn_inputs["target_tokens"].numpy().tolist()
    weights = datum.loss_fn_inputs["weights"].numpy().tolist()
    # What stands at position t + 1 is trained by the prediction made at t.
    tokens = [*datum.model_input.to_ints(), targets[-1]]
    trained = [False, *(weight != 0 for weight in weights)]
    found: list[Piece] = []
    start = 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or trained[end] != trained[start]:
            found.append(Piece(tokenizer.decode(tokens[start:end]), trained[start]))
            start = end
    return found
