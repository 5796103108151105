"""What a row of preferences says: two answers to a prompt, and how they were judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from crucible_kitchen.data.formats import (
    Columns,
    Completion,
    Conversation,
    Place,
    Prompt,
    Tools,
    checked,
)
from crucible_kitchen.errors import DataError
from crucible_kitchen.types import Message


class Preference(NamedTuple):
    """Two answers to one prompt, each as a conversation that says where the prompt ends.

    Args:
        chosen: the better one.
        rejected: the other.
    """

    chosen: Conversation
    rejected: Conversation


class Judgement(NamedTuple):
    """How two answers were judged.

    Args:
        margin: by how much the chosen one is better, in units of the score or the reward.
        tie: neither is better.
    """

    margin: float
    tie: bool


class _JudgedRow(Columns):
    """What a row of preferences may say beside the answers."""

    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tie: bool = False


def parse_judgement(row: Any, place: Place) -> Judgement:
    """The row's ``margin``, 0 without one, and its ``tie``.

    Raises:
        DataError: a margin that is no number of at least 0, or a tie that is not true or false.
    """
    read = checked(_JudgedRow, row, f"row {place}")
    return Judgement(read.margin, read.tie)


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
