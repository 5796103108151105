"""Look at what `dpo` would train on."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen import data
from crucible_kitchen.data import Left, Place, Preview, Seen
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer


@stage(writes="preview")
def preview_pairs(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
) -> Preview:
    """Both answers of every row as `prepare_pairs` makes them, and all that cannot be used at once.

    Raises:
        DataError: rows that cannot be used; they are named.
    """

    def read(row: Row, place: Place) -> Seen | Left:
        made = data.prepare_pair(
            row,
            place,
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if isinstance(made, str):
            return Left(made)
        return Seen(place, made.pair._asdict(), made.cut)

    seen, left = data.look(train_rows, train_places, read)
    return Preview(seen, left, len(held_out_rows), max_length, tokenizer)
