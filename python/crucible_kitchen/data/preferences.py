"""Rows that say which of two answers is the better one, as pairs of datums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator

from crucible_kitchen.data.datums import TOO_LONG, shifted, to_last_trained
from crucible_kitchen.data.formats import (
    Columns,
    Completion,
    Conversation,
    Place,
    Prompt,
    Tools,
    checked,
)
from crucible_kitchen.data.render import Rendered, render
from crucible_kitchen.data.truncate import check_truncation, truncated
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Datum, Message, TensorData

EQUAL: Final = "both answers are the same"


class Preference(NamedTuple):
    """Two answers to one prompt, each as a conversation that says where the prompt ends.

    Args:
        chosen: the better one.
        rejected: the other.
    """

    chosen: Conversation
    rejected: Conversation


class Pair(NamedTuple):
    """The datums of the two answers to one prompt; weights are 1 on the answer and 0 before it."""

    chosen: Datum
    rejected: Datum


@dataclass(frozen=True)
class PreparedPairs:
    """Pairs in the order of their rows, and what became of the rows.

    Args:
        pairs: what is trained or evaluated.
        preferences: what each of them says.
        truncated: rows whose prompt was cut.
        dropped: rows left out, too long or with equal answers.
    """

    pairs: list[Pair]
    preferences: list[Preference]
    truncated: int
    dropped: int


def _no_prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        raise ValueError("must be a list of messages where the row has no prompt, got text")
    return value  # type: ignore[no-any-return]  # the next validator reads it


class _ExplicitRow(Columns):
    """An explicit prompt; the answers may repeat it."""

    keys = ("prompt", "chosen", "rejected")
    prompt: Prompt
    chosen: Completion
    rejected: Completion
    tools: Tools = ()

    def read(self) -> Preference:
        count = len(self.prompt)
        answers = self.chosen, self.rejected
        if all(answer[:count] == self.prompt for answer in answers):
            answers = self.chosen[count:], self.rejected[count:]
        return _preference(self.prompt, *answers, self.tools)


class _ImplicitRow(Columns):
    """Two conversations whose common beginning is the prompt."""

    keys = ("chosen", "rejected")
    chosen: Annotated[Completion, BeforeValidator(_no_prompt)]
    rejected: Annotated[Completion, BeforeValidator(_no_prompt)]
    tools: Tools = ()

    def read(self) -> Preference:
        both = zip(self.chosen, self.rejected, strict=False)
        count = next((i for i, (one, other) in enumerate(both) if one != other), None)
        if count is None:
            count = min(len(self.chosen), len(self.rejected))
            # Equal to the end: the last message is the answer, not a part of the prompt.
            if len(self.chosen) == len(self.rejected):
                count -= 1
        if count == 0:
            raise DataError(
                "chosen and rejected must begin with the same prompt, or prompt be given"
            )
        prompt, tails = self.chosen[:count], (self.chosen[count:], self.rejected[count:])
        return _preference(prompt, *tails, self.tools)


def _preference(
    prompt: tuple[Message, ...],
    chosen: tuple[Message, ...],
    rejected: tuple[Message, ...],
    tools: tuple[dict[str, Any], ...],
) -> Preference:
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not any(message.role == "assistant" for message in answer):
            raise DataError(f"{name} must have an assistant's answer behind the prompt, got none")
    return Preference(
        Conversation(prompt + chosen, len(prompt), tools),
        Conversation(prompt + rejected, len(prompt), tools),
    )


def parse_preference(row: Any, index: Place | None = None) -> Preference:
    """What a row of preferences says.

    A row has ``chosen`` and ``rejected``, and ``prompt`` unless both are conversations, of which
    then the longest common beginning is the prompt. Each is text or a list of messages.

    Args:
        row: a mapping with these keys.
        index: place of the row in its data set, for errors.

    Raises:
        DataError: a key is missing, a value is not what the format wants, or one answer is empty.
    """
    name = "row" if index is None else f"row {index}"
    if not isinstance(row, Mapping):
        raise DataError(f"{name} must be a mapping from column to value, got {type(row).__name__}")
    missing = [key for key in _ImplicitRow.keys if row.get(key) is None]
    if missing:
        raise DataError(
            f"{name} must have prompt, chosen, rejected; or chosen, rejected as conversations; "
            f"got {', '.join(map(str, row)) or 'no columns'} without {' and '.join(missing)}"
        )
    kind: type[_ImplicitRow | _ExplicitRow]
    kind = _ImplicitRow if row.get("prompt") is None else _ExplicitRow
    columns = checked(kind, row, name)
    try:
        return columns.read()
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


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


def prepare_pairs(
    rows: Iterable[Any],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation: str = "error",
    equal_answers: Literal["error", "drop"] = "error",
    places: Sequence[Place] | None = None,
) -> PreparedPairs:
    """Parse, render, cut and shift every row of preferences.

    Args:
        rows: what `parse_preference` reads.
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
    pairs: list[Pair] = []
    preferences: list[Preference] = []
    count = cut = 0
    for number, row in enumerate(rows):
        count += 1
        made = prepare_pair(
            row,
            number if places is None else places[number],
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            equal_answers=equal_answers,
        )
        if not isinstance(made, str):
            cut += made.cut
            pairs.append(made.pair)
            preferences.append(made.preference)
    dropped = count - len(pairs)
    if not pairs:
        raise DataError(f"no pair to train on: {count} row(s) came and {dropped} were left out")
    return PreparedPairs(pairs, preferences, cut, dropped)


class MadePair(NamedTuple):
    """One row as datums, what it says, and whether it was too long."""

    pair: Pair
    preference: Preference
    cut: bool


def prepare_pair(
    row: Any,
    place: Place,
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    truncation: str,
    equal_answers: str,
) -> MadePair | str:
    """What `prepare_pairs` makes of one row, or `TOO_LONG` or `EQUAL` where it is left out.

    Raises:
        DataError: it cannot be used; the message names it by its place.
    """
    preference = parse_preference(row, place)
    try:
        whole = [_rendered(side, tokenizer) for side in preference]
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
    pair = Pair(shifted(fitted[0]), shifted(fitted[1]))
    return MadePair(pair, preference, fitted is not whole)


def check_pair_options(max_length: int | None, truncation: str, equal_answers: str) -> None:
    """Refuse options of `prepare_pairs` that no pair can be prepared with.

    Raises:
        ConfigError: see there.
    """
    check_truncation(truncation)
    if truncation == "right":
        raise ConfigError("truncation: must not be 'right' for pairs, which would cut an answer")
    if equal_answers not in ("error", "drop"):
        raise ConfigError(f"equal_answers: must be error or drop, got {equal_answers!r}")
    if max_length is not None and max_length < 2:
        raise ConfigError(
            f"max_length: must be at least 2, one token and one to predict, got {max_length}"
        )


def _rendered(side: Conversation, tokenizer: Tokenizer) -> Rendered:
    rendered = to_last_trained(render(side, tokenizer, "completion_only"))
    if rendered is None:
        raise DataError("an answer must have at least one token behind the prompt, got none")
    return rendered


def fitted_pair(whole: list[Rendered], max_length: int, truncation: str) -> list[Rendered] | None:
    """Both answers behind the same, shortened prompt; None, if the row is to be left out.

    Raises:
        DataError: the longer is too long, and `truncation` is ``error`` or would cut an answer.
    """
    lengths = [len(side.tokens) for side in whole]
    excess = max(lengths) - max_length
    if excess <= 0:
        return whole
    # Both lose as many tokens, so both lose the same ones. The longer goes first: it is its length
    # that an error should tell.
    fitted: dict[int, Rendered] = {}
    for i in sorted((0, 1), key=lambda i: -lengths[i]):
        side = truncated(whole[i], lengths[i] - excess, truncation)
        if side is None:
            return None
        fitted[i] = side
    return [fitted[0], fitted[1]]
