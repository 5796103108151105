"""Rows of preferences as a reward model reads them: both answers whole, and their judgement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from crucible_kitchen.data.datums import TOO_LONG
from crucible_kitchen.data.formats import Columns, Conversation, Place, checked
from crucible_kitchen.data.preferences import (
    EQUAL,
    Pair,
    Preference,
    check_pair_options,
    fitted_pair,
    parse_preference,
)
from crucible_kitchen.data.render import Rendered, render
from crucible_kitchen.errors import DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Datum, ModelInput


class Judgement(NamedTuple):
    """How two answers were judged.

    Args:
        margin: by how much the chosen one is better, in units of the score.
        tie: neither is better.
    """

    margin: float
    tie: bool


@dataclass(frozen=True)
class Comparisons:
    """Pairs in the order of their rows, and what became of the rows.

    Args:
        pairs: datums of the two answers, each with its prompt and nothing to predict.
        judgements: one a pair.
        preferences: what each row says.
        truncated: rows whose prompt was cut.
        dropped: rows left out, too long or with equal answers.
    """

    pairs: list[Pair]
    judgements: list[Judgement]
    preferences: list[Preference]
    truncated: int
    dropped: int


class _JudgedRow(Columns):
    """What a row of preferences may say beside the answers."""

    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tie: bool = False


def prepare_comparisons(
    rows: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation: str = "error",
    equal_answers: Literal["error", "drop"] = "error",
    places: Sequence[Place] | None = None,
) -> Comparisons:
    """Parse, render and cut every row of preferences, for a model that scores answers.

    Args:
        rows: what `parse_preference` reads, and perhaps ``margin`` (at least 0) and ``tie``.
        max_length: most tokens of the longer answer with its prompt; None for no bound.
        truncation: ``error``, ``drop``, ``left`` or ``middle``. The last two cut the prompt, the
            same tokens of it for both answers; answers are never cut.
        equal_answers: what to do with a row whose two answers are the same tokens.
        places: of each row, its place in the data set, where `rows` are only some of it; errors
            name a row by it.

    Raises:
        ConfigError: an unknown `truncation` or `equal_answers`, or a `max_length` below 2.
        DataError: a row cannot be used, which the message names; or no row is left.
    """
    check_pair_options(max_length, truncation, equal_answers)
    made: list[MadeComparison] = []
    count = 0
    for number, row in enumerate(rows):
        count += 1
        one = prepare_comparison(
            row,
            number if places is None else places[number],
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if not isinstance(one, str):
            made.append(one)
    dropped = count - len(made)
    if not made:
        raise DataError(f"no pair to train on: {count} row(s) came and {dropped} were left out")
    return Comparisons(
        [one.pair for one in made],
        [one.judgement for one in made],
        [one.preference for one in made],
        sum(one.cut for one in made),
        dropped,
    )


class MadeComparison(NamedTuple):
    """One row as a reward model reads it.

    Args:
        answers: chosen and rejected with their prompt, weighted 1 on the answer.
        judgement: how they were judged.
        preference: what the row says.
        cut: whether it was too long.
    """

    answers: tuple[Rendered, Rendered]
    judgement: Judgement
    preference: Preference
    cut: bool

    @property
    def pair(self) -> Pair:
        """The answers as datums with nothing to predict."""
        chosen, rejected = (Datum(ModelInput.from_ints(one.tokens), {}) for one in self.answers)
        return Pair(chosen, rejected)


def prepare_comparison(
    row: Any,
    place: Place,
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    truncation: str,
    equal_answers: str,
) -> MadeComparison | str:
    """What `prepare_comparisons` makes of one row, or `TOO_LONG` or `EQUAL` where it is left out.

    Raises:
        DataError: it cannot be used; the message names it by its place.
    """
    preference = parse_preference(row, place)
    judged = checked(_JudgedRow, row, f"row {place}")
    try:
        whole = [_scored(side, tokenizer) for side in preference]
        if whole[0].tokens == whole[1].tokens:
            if equal_answers == "error":
                raise DataError(
                    "chosen and rejected must differ, got the same tokens; "
                    "equal_answers='drop' leaves such rows out"
                )
            return EQUAL
        fitted = whole if max_length is None else fitted_pair(whole, max_length, truncation)
    except DataError as error:
        raise DataError(f"row {place}: {error}") from error
    if fitted is None:
        return TOO_LONG
    judgement = Judgement(judged.margin, judged.tie)
    return MadeComparison((fitted[0], fitted[1]), judgement, preference, fitted is not whole)


def scored_tokens(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    """A prompt and its answer as a reward model reads them: the score stands at the last token.

    The whole conversation is rendered, and tokens that fill up batches are cut from its end:
    ``AutoModelForSequenceClassification`` looks for the last token that is not one, also where a
    model fills up with the token that ends its turns.

    Raises:
        DataError: the template refuses it, or no token of the answer is left.
    """
    return list(_scored(conversation, tokenizer).tokens)


def _scored(conversation: Conversation, tokenizer: Tokenizer) -> Rendered:
    rendered = render(conversation, tokenizer, "completion_only")
    end = len(rendered.tokens)
    while end and rendered.tokens[end - 1] == tokenizer.pad_token_id:
        end -= 1
    if not any(rendered.weights[:end]):
        raise DataError("an answer must have at least one token behind the prompt, got none")
    return Rendered(rendered.tokens[:end], rendered.weights[:end])
