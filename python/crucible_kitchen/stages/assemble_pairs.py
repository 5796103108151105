"""Cut the pairs of one optimizer step into micro-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen.data import Pair, micro_batches, size_of
from crucible_kitchen.graph import stage

from ._pairs import interleaved


class AssembledPairs(NamedTuple):
    """What one optimizer step works on.

    Args:
        step_pairs: places of its pairs.
        micro_batches: the same, cut into what goes through the model at a time.
        batch_loss: 0; every micro-batch adds its share.
        batch_policy: none yet; every micro-batch adds its answers' log probabilities.
        batch_tokens: positions of all answers and their prompts.
        trained_tokens: positions of the answers alone.
        batch_started: when, in seconds of the performance counter.
    """

    step_pairs: list[int]
    micro_batches: list[list[int]]
    batch_loss: float
    batch_policy: list[float]
    batch_tokens: int
    trained_tokens: int
    batch_started: float


@stage
def assemble_pairs(
    batch: Sequence[int],
    train_pairs: Sequence[Pair],
    batch_size: int,
    pack_tokens: int | None,
) -> AssembledPairs:
    """The pairs of a step in micro-batches of `batch_size` pairs, or of `pack_tokens` tokens."""
    started = time.perf_counter()
    places = list(batch)
    sizes = [size_of(train_pairs[place]) for place in places]
    datums = interleaved([train_pairs[place] for place in places])
    return AssembledPairs(
        places,
        micro_batches(places, sizes, batch_size, pack_tokens),
        0.0,
        [],
        sum(sizes),
        sum(datum.num_trained_tokens for datum in datums),
        started,
    )
