"""Order the rows of one epoch into the batches of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.data import StepOrder, size_of
from crucible_kitchen.graph import stage
from crucible_kitchen.types import Datum


@stage(writes="epoch_batches")
def order_batches(
    epoch: int,
    train_datums: Sequence[Datum] | Sequence[Sequence[Datum]],
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    order: str,
    pack_tokens: int | None,
    step: int,
    total_steps: int,
) -> list[list[int]]:
    """Indices of the rows of each step of an epoch; every row once, the last step may have fewer.

    Args:
        epoch: from 0; each has an order of its own.
        train_datums: what is ordered, datums or pairs of them.
        step: steps taken before; those beyond `total_steps` are left out.
    """
    sizes = [size_of(row) for row in train_datums]
    steps = StepOrder(sizes, batch_size, gradient_accumulation, seed, order, pack_tokens)
    return steps.epoch(epoch)[: total_steps - step]
