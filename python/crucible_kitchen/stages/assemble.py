"""Turn the rows of one optimizer step into micro-batches whose losses add up to a mean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen.data import micro_batches, normalise_weights, size_of
from crucible_kitchen.graph import stage
from crucible_kitchen.types import Datum


class Assembled(NamedTuple):
    """What one optimizer step works on.

    Args:
        micro_batches: what goes through the model at a time.
        batch_loss: 0; every micro-batch adds its share.
        batch_tokens: positions of all rows.
        trained_tokens: positions whose weight is not 0.
        batch_started: when, in seconds of the performance counter.
    """

    micro_batches: list[list[Datum]]
    batch_loss: float
    batch_tokens: int
    trained_tokens: int
    batch_started: float


@stage
def assemble(
    batch: Sequence[int],
    train_datums: Sequence[Datum],
    batch_size: int,
    pack_tokens: int | None,
) -> Assembled:
    """Weights of the step's rows divided by their sum, and the rows cut into micro-batches.

    The client's gradients are those of a sum. With weights that sum to 1 over the whole step, the
    sum is the mean per token, however the rows are cut.

    Args:
        batch: indices of the step's rows.
        train_datums: all rows.
        batch_size: most rows of a micro-batch, where `pack_tokens` is None.
        pack_tokens: most tokens of a micro-batch.
    """
    started = time.perf_counter()
    datums = [train_datums[index] for index in batch]
    sizes = [size_of(datum) for datum in datums]
    return Assembled(
        micro_batches(normalise_weights(datums), sizes, batch_size, pack_tokens),
        0.0,
        sum(sizes),
        sum(datum.num_trained_tokens for datum in datums),
        started,
    )
