"""Turn the held-out rows of preferences into pairs of datums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crucible_kitchen.context import Metrics
from crucible_kitchen.data import Judgement, Pair, Place, Preference
from crucible_kitchen.errors import DataError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Row, Tokenizer

from ._pairs import read_pairs


class HeldOutPairs(NamedTuple):
    """What is evaluated; nothing where no rows are held out.

    Args:
        eval_pairs: of the held-out rows.
        eval_judgements: one a pair.
        eval_preferences: what the rows say.
        held_out_chats: their prompts with the chosen answer, for samples.
    """

    eval_pairs: list[Pair]
    eval_judgements: list[Judgement]
    eval_preferences: list[Preference]
    held_out_chats: list[Row]


@stage
def prepare_held_out_pairs(
    held_out_rows: Sequence[Row],
    held_out_places: Sequence[Place],
    tokenizer: Tokenizer,
    max_length: int,
    truncation: str,
    equal_answers: str,
    ld_alpha: float | None = None,
    scored: bool = False,
    comparator: bool = False,
    *,
    metrics: Metrics,
) -> HeldOutPairs:
    """As `prepare_pairs`, of rows that are never trained.

    Raises:
        DataError: see there.
    """
    if not held_out_rows:
        return HeldOutPairs([], [], [], [])
    try:
        held_out = read_pairs(
            held_out_rows,
            held_out_places,
            tokenizer,
            scored=scored,
            comparator=comparator,
            ld_alpha=ld_alpha,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
    except DataError as error:
        raise DataError(f"held-out rows: {error}") from error
    metrics.record("held_out_rows", len(held_out.pairs))
    chats = [_chat(one) for one in held_out.preferences]
    return HeldOutPairs(held_out.pairs, held_out.judgements, held_out.preferences, chats)


def _chat(preference: Preference) -> Row:
    return {"messages": [message.to_dict() for message in preference.chosen.messages]}
