"""Choose a few steps that stand for all steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from crucible_kitchen.data import Judgement, Pair, micro_batches, size_of
from crucible_kitchen.graph import stage
from crucible_kitchen.types import Datum

_TYPICAL: Final = 4
_EVALUATED: Final = 3


class Probes(NamedTuple):
    """What a calibration trains and evaluates.

    Args:
        probe_batches: rows of steps: that with the largest micro-batch first, which takes the most
            memory and whatever only the first step takes; then some of the usual size.
        probe_datums: a few batches of what is evaluated: spread over all lengths, the longest
            among them.
        probe_judgements: of these, where they are pairs.
        tokens_per_step: of an epoch's steps, on average.
        eval_tokens: of all that is evaluated.
    """

    probe_batches: list[list[int]]
    probe_datums: list[Datum | Pair]
    probe_judgements: list[Judgement]
    tokens_per_step: float
    eval_tokens: int


@stage
def choose_probes(
    epoch_batches: Sequence[Sequence[int]],
    train_datums: Sequence[Datum] | Sequence[Pair],
    eval_datums: Sequence[Datum] | Sequence[Pair],
    batch_size: int,
    pack_tokens: int | None,
    eval_judgements: Sequence[Judgement] = (),
) -> Probes:
    """Steps and rows whose time and memory tell those of the run.

    Args:
        epoch_batches: rows of each step of the first epoch.
    """
    sizes = [size_of(row) for row in train_datums]
    tokens = [sum(sizes[row] for row in step) for step in epoch_batches]
    mean = sum(tokens) / len(tokens)

    def largest(place: int) -> int:
        rows = epoch_batches[place]
        cut = micro_batches(rows, [sizes[row] for row in rows], batch_size, pack_tokens)
        return max(sum(sizes[row] for row in rows) for rows in cut)

    most = max(range(len(tokens)), key=largest)
    usual = sorted(range(len(tokens)), key=lambda place: abs(tokens[place] - mean))
    lengths = [size_of(row) for row in eval_datums]
    seen = _spread(lengths, _EVALUATED * batch_size)
    return Probes(
        [list(epoch_batches[place]) for place in [most, *usual[:_TYPICAL]]],
        [eval_datums[place] for place in seen],
        [eval_judgements[place] for place in seen] if eval_judgements else [],
        mean,
        sum(lengths),
    )


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """Places of at most `count` rows, from the longest down, in equal steps."""
    ordered = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    count = min(count, len(ordered))
    return sorted(ordered[number * len(ordered) // count] for number in range(count))
