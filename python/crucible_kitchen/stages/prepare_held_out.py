"""Turn the held-out rows into tokens and weights."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen import data
from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Place
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer
from crucible_kitchen.types import Datum


@stage(writes="eval_datums")
def prepare_held_out(
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    train_on: str,
    max_length: int,
    truncation: str,
    untrained: str,
    *,
    metrics: Metrics,
) -> list[Datum]:
    """As `prepare`, of rows that are never trained; none where none are held out.

    Raises:
        DataError: see there.
    """
    if not held_out_rows:
        return []
    try:
        datums = data.build_datums(
            held_out_rows,
            tokenizer,
            train_on=train_on,
            max_length=max_length,
            truncation=truncation,
            untrained="drop" if untrained == "drop" else "error",
            places=held_out_places,
        )
    except DataError as error:
        raise DataError(f"held-out rows: {error}") from error
    metrics.record("held_out_rows", len(datums))
    return datums
