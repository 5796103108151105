"""Look at what `reward` would train on."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen import data
from crucible_kitchen.data import Left, Place, Preview, Seen
from crucible_kitchen.data.datums import shifted
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer


@stage(writes="preview")
def preview_comparisons(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
) -> Preview:
    """Both answers of every row as they are scored, and all that cannot be used at once.

    What is marked as trained is the answer: the score stands behind it.

    Raises:
        DataError: rows that cannot be used; they are named.
    """

    def read(row: Row, place: Place) -> Seen | Left:
        made = data.prepare_comparison(
            row,
            place,
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if isinstance(made, str):
            return Left(made)
        tie, margin = made.judgement.tie, made.judgement.margin
        how = "equal to" if tie else f"better by {margin:g} than" if margin else "better than"
        names = f"chosen, {how} rejected", "rejected"
        return Seen(place, dict(zip(names, map(shifted, made.answers), strict=True)), made.cut)

    seen, left = data.look(train_rows, train_places, read)
    return Preview(seen, left, len(held_out_rows), max_length, tokenizer)
