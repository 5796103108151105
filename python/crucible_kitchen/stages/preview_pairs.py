"""Look at what `dpo` or `reward` would train on."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen import data
from crucible_kitchen.data import Judgement, Left, Place, Preview, Seen
from crucible_kitchen.data.datums import shifted
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer

from ._pairs import form_of


@stage(writes="preview")
def preview_pairs(
    train_rows: Sequence[Row],
    train_places: Sequence[Place],
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
    scored: bool = False,
    comparator: bool = False,
) -> Preview:
    """Both sequences of every row as `prepare_pairs` makes them, and all bad rows at once.

    What is marked of an answer that is scored is the answer: the score stands behind it.

    Raises:
        DataError: rows that cannot be used; they are named.
    """

    def read(row: Row, place: Place) -> Seen | Left:
        made = data.prepare_pair(
            row,
            place,
            tokenizer,
            form=form_of(scored, comparator),
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if isinstance(made, str):
            return Left(made)
        names = _COMPARED if comparator else _names(made.judgement, scored)
        return Seen(place, dict(zip(names, map(shifted, made.sides), strict=True)), made.cut)

    train, held_out = (train_rows, train_places), (held_out_rows, held_out_places)
    seen, left = data.look(train, held_out, read)
    return Preview(seen, left, len(held_out_rows), max_length, tokenizer)


_COMPARED = "chosen first", "rejected first"


def _names(judgement: Judgement, scored: bool) -> tuple[str, str]:
    if judgement.tie:
        return "chosen, equal to rejected", "rejected"
    if judgement.margin:
        return f"chosen, better by {judgement.margin:g} than rejected", "rejected"
    return "chosen, better than rejected" if scored else "chosen", "rejected"
