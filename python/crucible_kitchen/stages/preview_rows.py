"""Look at what `sft` would train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crucible_kitchen import data
from crucible_kitchen.data import Left, Place, Preview, Seen
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer


@stage(writes="preview")
def preview_rows(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    train_on: str,
    max_length: int,
    truncation: str,
    untrained: str,
) -> Preview:
    """Every row as `prepare` makes it, and all that cannot be used at once.

    Raises:
        DataError: rows that cannot be used; they are named.
    """
    how: dict[str, Any] = {
        "train_on": train_on,
        "max_length": max_length,
        "truncation": truncation,
        "untrained": untrained,
    }

    def read(row: Row, place: Place) -> Seen | Left:
        made = data.prepare_row(row, place, tokenizer, **how)
        return Left(made) if isinstance(made, str) else Seen(place, {"": made.datum}, made.cut)

    train, held_out = (train_rows, train_places), (held_out_rows, held_out_places)
    seen, left = data.look(train, held_out, read)
    return Preview(seen, left, len(held_out_rows), max_length, tokenizer)
