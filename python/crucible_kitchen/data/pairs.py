"""Rows of preferences as pairs of datums: answers to predict, to score, or to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from crucible_kitchen.data.columns import Place
from crucible_kitchen.data.comparator import compared
from crucible_kitchen.data.datums import TOO_LONG, shifted, to_last_trained
from crucible_kitchen.data.formats import Conversation
from crucible_kitchen.data.preferences import (
    Judgement,
    Preference,
    parse_judgement,
    parse_preference,
)
from crucible_kitchen.data.render import Rendered, render
from crucible_kitchen.data.truncate import check_truncation, truncated
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Datum, ModelInput, TensorData

EQUAL: Final = "neither answer is better"

PairForm = Literal["predicted", "scored", "compared"]


class Pair(NamedTuple):
    """The two sequences of one row.

    Args:
        chosen: the better answer behind its prompt, with weights of 1 on the answer (without
            anything to predict, if it is scored); or both answers, the better one first, and the
            letter of that.
        rejected: likewise of the other answer; or both, the better one last, and its letter.
    """

    chosen: Datum
    rejected: Datum


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs in the order of their rows, and what became of the rows.

    Args:
        pairs: what is trained or evaluated.
        judgements: one a pair.
        preferences: what each of them says.
        truncated: rows whose prompt was cut.
        dropped: rows left out, too long or without a better answer.
    """

    pairs: list[Pair]
    judgements: list[Judgement]
    preferences: list[Preference]
    truncated: int
    dropped: int


def prepare_pairs(
    rows: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    form: PairForm = "predicted",
    max_length: int | None = None,
    truncation: str = "error",
    equal_answers: Literal["error", "drop"] = "error",
    places: Sequence[Place] | None = None,
) -> PreparedPairs:
    """Parse, render and cut every row of preferences.

    Args:
        rows: what `parse_preference` reads, and perhaps ``margin`` (at least 0) and ``tie``.
        form: ``predicted``: each answer behind the prompt, up to its last trained token.
            ``scored``: each conversation whole, with nothing to predict. ``compared``: both answers
            in one prompt, in both orders, with the letter of the better one to predict.
        max_length: most tokens of the longer sequence; None for no bound.
        truncation: ``error``, ``drop``, ``left`` or ``middle``. The last two cut the prompt, the
            same tokens of it for both answers; answers are never cut.
        equal_answers: what to do with a row whose two answers are the same, or were judged equal
            where only ``scored`` has a use for that.
        places: of each row, its place in the data set, where `rows` are only some of it; errors
            name a row by it.

    Raises:
        ConfigError: an unknown `form`, `truncation` or `equal_answers`, or a `max_length` below 2.
        DataError: a row cannot be used, which the message names; or no row is left.
    """
    _check(form, max_length, truncation, equal_answers)
    made: list[MadePair] = []
    count = 0
    for number, row in enumerate(rows):
        count += 1
        one = prepare_pair(
            row,
            number if places is None else places[number],
            tokenizer,
            form=form,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if not isinstance(one, str):
            made.append(one)
    dropped = count - len(made)
    if not made:
        raise DataError(f"no pair to train on: {count} row(s) came and {dropped} were left out")
    return PreparedPairs(
        [one.pair for one in made],
        [one.judgement for one in made],
        [one.preference for one in made],
        sum(one.cut for one in made),
        dropped,
    )


class MadePair(NamedTuple):
    """One row of preferences.

    Args:
        sides: tokens and weights of the two sequences.
        judgement: how the answers were judged.
        preference: what the row says.
        cut: whether it was too long.
        pair: the sequences as datums.
    """

    sides: tuple[Rendered, Rendered]
    judgement: Judgement
    preference: Preference
    cut: bool
    pair: Pair


def prepare_pair(
    row: Any,
    place: Place,
    tokenizer: Tokenizer,
    *,
    form: PairForm,
    max_length: int | None,
    truncation: str,
    equal_answers: str,
) -> MadePair | str:
    """What `prepare_pairs` makes of one row, or `TOO_LONG` or `EQUAL` where it is left out.

    Raises:
        DataError: it cannot be used; the message names it by its place.
    """
    preference, judgement = parse_preference(row, place), parse_judgement(row, place)
    try:
        whole = (
            _READ[form](preference.chosen, tokenizer),
            _READ[form](preference.rejected, tokenizer),
        )
        same = whole[0].tokens == whole[1].tokens
        if same or (judgement.tie and form != "scored"):
            if equal_answers == "error":
                raise DataError(_SAME if same else _TIED)
            return EQUAL
        if form == "compared":
            found = compared(preference, tokenizer, max_length, truncation)
        else:
            found = (whole, False) if max_length is None else _fitted(whole, max_length, truncation)
    except DataError as error:
        raise DataError(f"row {place}: {error}") from error
    if found is None:
        return TOO_LONG
    sides, cut = found
    make = _scored_datum if form == "scored" else shifted
    return MadePair(sides, judgement, preference, cut, Pair(make(sides[0]), make(sides[1])))


_SAME: Final = (
    "chosen and rejected must differ, got the same tokens; equal_answers='drop' leaves such rows "
    "out"
)
_TIED: Final = (
    "one answer must be the better one, got tie=true, which only a model that scores answers can "
    "learn from; equal_answers='drop' leaves such rows out"
)


def _check(form: str, max_length: int | None, truncation: str, equal_answers: str) -> None:
    if form not in _READ:
        raise ConfigError(f"form: must be one of {', '.join(_READ)}, got {form!r}")
    check_truncation(truncation)
    if truncation == "right":
        raise ConfigError("truncation: must not be 'right' for pairs, which would cut an answer")
    if equal_answers not in ("error", "drop"):
        raise ConfigError(f"equal_answers: must be error or drop, got {equal_answers!r}")
    if max_length is not None and max_length < 2:
        raise ConfigError(
            f"max_length: must be at least 2, one token and one to predict, got {max_length}"
        )


def desensitised(pair: Pair, alpha: float) -> Pair:
    """A pair whose longer answer counts less beyond the length of the shorter one.

    Args:
        alpha: weight of its tokens from there on, in [0, 1]; 1 changes nothing.

    Source: LD-DPO, Liu et al. 2024, https://arxiv.org/abs/2409.06411
    """
    trained = [np.flatnonzero(datum.loss_fn_inputs["weights"].numpy()) for datum in pair]
    shared = min(map(len, trained))
    made = []
    for datum, places in zip(pair, trained, strict=True):
        weights = np.array(datum.loss_fn_inputs["weights"].numpy())
        weights[places[shared:]] = alpha
        inputs = {**datum.loss_fn_inputs, "weights": TensorData(weights)}
        made.append(Datum(datum.model_input, inputs))
    return Pair(*made)


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
        raise DataError(_NO_ANSWER)
    return Rendered(rendered.tokens[:end], rendered.weights[:end])


def _predicted(conversation: Conversation, tokenizer: Tokenizer) -> Rendered:
    rendered = to_last_trained(render(conversation, tokenizer, "completion_only"))
    if rendered is None:
        raise DataError(_NO_ANSWER)
    return rendered


_NO_ANSWER: Final = "an answer must have at least one token behind the prompt, got none"
_READ: Final[Mapping[str, Callable[[Conversation, Tokenizer], Rendered]]] = MappingProxyType(
    {"predicted": _predicted, "scored": _scored, "compared": _predicted}
)


def _scored_datum(side: Rendered) -> Datum:
    return Datum(ModelInput.from_ints(side.tokens), {})


def _fitted(
    whole: tuple[Rendered, Rendered], max_length: int, truncation: str
) -> tuple[tuple[Rendered, Rendered], bool] | None:
    """Both answers behind the same, perhaps shortened prompt; None, if the row is to be left out.

    Raises:
        DataError: the longer is too long, and `truncation` is ``error`` or would cut an answer.
    """
    lengths = [len(side.tokens) for side in whole]
    excess = max(lengths) - max_length
    if excess <= 0:
        return whole, False
    # Both lose as many tokens, so both lose the same ones. The longer goes first: it is its length
    # that an error should tell.
    fitted: dict[int, Rendered] = {}
    for i in sorted((0, 1), key=lambda i: -lengths[i]):
        side = truncated(whole[i], lengths[i] - excess, truncation)
        if side is None:
            return None
        fitted[i] = side
    return (fitted[0], fitted[1]), True
