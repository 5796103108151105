"""Order the rows of one epoch into the batches of its steps."""

from __future__ import annotations

from collections.abc import Sized

from crucible_kitchen.data import BatchOrder
from crucible_kitchen.graph import stage


@stage(writes="epoch_batches")
def order_batches(
    epoch: int,
    train_datums: Sized,
    batch_size: int,
    gradient_accumulation: int,
    seed: int,
    step: int,
    total_steps: int,
) -> list[list[int]]:
    """Indices of the rows of each step of an epoch; every row once, the last step may have fewer.

    Args:
        epoch: from 0; each has an order of its own.
        train_datums: what is ordered, datums or pairs of them.
        step: steps taken before; those beyond `total_steps` are left out.
    """
    order = BatchOrder(len(train_datums), batch_size * gradient_accumulation, seed)
    return order.epoch(epoch)[: total_steps - step]
