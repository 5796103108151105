"""Choose a few steps that stand for all steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from crucible_kitchen.graph import stage
from crucible_kitchen.types import Datum

_TYPICAL: Final = 3
_EVALUATED: Final = 2


class Probes(NamedTuple):
    """What a calibration trains and evaluates.

    Args:
        probe_batches: rows of steps: that with the largest micro-batch first, which takes the most
            memory and whatever only the first step takes; then some of the usual size.
        probe_datums: a few batches of what is evaluated, the longest among them.
        tokens_per_step: of an epoch's steps, on average.
        eval_tokens: of all that is evaluated.
    """

    probe_batches: list[list[int]]
    probe_datums: list[Datum]
    tokens_per_step: float
    eval_tokens: int


@stage
def choose_probes(
    epoch_batches: Sequence[Sequence[int]],
    train_datums: Sequence[Datum],
    eval_datums: Sequence[Datum],
    batch_size: int,
) -> Probes:
    """Steps and rows whose time and memory tell those of the run.

    Args:
        epoch_batches: rows of each step of the first epoch.
    """
    sizes = [datum.model_input.length for datum in train_datums]
    tokens = [sum(sizes[row] for row in step) for step in epoch_batches]
    mean = sum(tokens) / len(tokens)

    def largest(place: int) -> int:
        rows = epoch_batches[place]
        cuts = range(0, len(rows), batch_size)
        return max(sum(sizes[row] for row in rows[cut : cut + batch_size]) for cut in cuts)

    most = max(range(len(tokens)), key=largest)
    usual = sorted(range(len(tokens)), key=lambda place: abs(tokens[place] - mean))
    chosen = [most, *usual[:_TYPICAL]]
    by_length = sorted(eval_datums, key=lambda datum: datum.model_input.length)
    middle = by_length[len(by_length) // 2 :][: batch_size * (_EVALUATED - 1)]
    return Probes(
        [list(epoch_batches[place]) for place in chosen],
        [*by_length[-batch_size:], *middle],
        mean,
        sum(datum.model_input.length for datum in eval_datums),
    )
