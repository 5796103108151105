"""Several data sets as one: how many rows of each, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crucible_kitchen.data.batches import permutation
from crucible_kitchen.errors import DataError

# Beyond this a weight is rather a slip than a wish, and the epoch would not fit in memory.
_MOST_REPEATS: Final = 100


class MixturePart(BaseModel):
    """One data set of a mixture.

    Args:
        name: that the data store knows.
        weight: its share of the rows, relative to those of the others; None: as many as it has.
        options: what else the data store is told of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(min_length=1)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def mix(counts: Sequence[int], weights: Sequence[float | None], seed: int) -> list[tuple[int, int]]:
    """The rows of an epoch over several data sets, each spread evenly over it.

    Without weights every row comes once. With them the rows of each data set are in proportion to
    its weight, and no row is left out: the data set that has most rows for its weight comes once,
    the others come again as often as it takes, the last time in part.

    Args:
        counts: rows of each data set.
        weights: of each, or None for all.
        seed: which rows come once more where a data set does not come as a whole.
    Returns:
        ``(data set, row)``.
    Raises:
        DataError: only some have weights, or a data set would come very often.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise DataError("mixture: either every data set or none must have a weight, got some")
    shares = given or [float(count) for count in counts]
    longest = max(count / share for count, share in zip(counts, shares, strict=True))
    wanted = [max(count, round(longest * s)) for count, s in zip(counts, shares, strict=True)]
    for part, (count, rows) in enumerate(zip(counts, wanted, strict=True)):
        if rows > _MOST_REPEATS * count:
            raise DataError(
                f"mixture: the {count} row(s) of data set {part} would come "
                f"{math.ceil(rows / count)} times, more than {_MOST_REPEATS}, so that every row of "
                "the others comes once; a weight closer to its share of the rows is needed"
            )
    chosen = [list(_rows(count, wanted[part], seed, part)) for part, count in enumerate(counts)]
    # The middle of the k-th of n equal stretches of the epoch.
    spread = [
        ((k + 0.5) / len(rows), part, row)
        for part, rows in enumerate(chosen)
        for k, row in enumerate(rows)
    ]
    return [(part, row) for _, part, row in sorted(spread, key=lambda entry: entry[0])]


def _rows(count: int, wanted: int, seed: int, part: int) -> Iterator[int]:
    for _ in range(wanted // count):
        yield from range(count)
    random = np.random.Philox(key=np.array([seed, part], dtype=np.uint64))
    yield from sorted(int(row) for row in permutation(random, count)[: wanted % count])
