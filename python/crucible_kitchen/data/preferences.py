"""What a row of preferences says: two answers to a prompt, and how they were judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field

from crucible_kitchen.data.columns import (
    ANSWERING,
    Columns,
    Completion,
    Number,
    Place,
    Prompt,
    Tools,
    YesOrNo,
    checked,
)
from crucible_kitchen.data.formats import Conversation
from crucible_kitchen.data.spans import shared
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

    margin: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = 0.0
    tie: YesOrNo = False


def parse_judgement(row: Any, place: Place) -> Judgement:
    """The row's ``margin``, 0 without one, and its ``tie``.

    Raises:
        DataError: a margin that is no number of at least 0, or a tie that is not true or false.
    """
    read = checked(_JudgedRow, row, f"row {place}")
    return Judgement(read.margin, read.tie)


class _ExplicitRow(Columns):
    """An explicit prompt; the answers may repeat it, behind a system message that they share."""

    keys = ("prompt", "chosen", "rejected")
    prompt: Prompt
    chosen: Completion
    rejected: Completion
    tools: Tools = ()

    def read(self) -> Preference:
        prompt, chosen, rejected = self.prompt, self.chosen, self.rejected
        before = 0
        if chosen[0] == rejected[0] and chosen[0].role in ("system", "developer"):
            before = int(prompt[0] != chosen[0])
        end = before + len(prompt)
        if chosen[before:end] == rejected[before:end] == prompt:
            prompt, chosen, rejected = chosen[:end], chosen[end:], rejected[end:]
        return _preference(prompt, chosen, rejected, self.tools)


class _ImplicitRow(Columns):
    """Two conversations whose common beginning is the prompt."""

    keys = ("chosen", "rejected")
    chosen: Completion
    rejected: Completion
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
            raise DataError(_NO_PROMPT)
        prompt, tails = self.chosen[:count], (self.chosen[count:], self.rejected[count:])
        return _preference(prompt, *tails, self.tools)


_NO_PROMPT: Final = "chosen and rejected must begin with the same prompt, or prompt be given"


def _common_words(one: str, other: str) -> str:
    """What two texts begin with, less a word that ends differently, and less the last word where
    one text is only the beginning of the other."""
    common = one[: shared(one, other)]
    behind = [text[len(common) :][:1] for text in (one, other)]
    if not all(behind):
        common = re.sub(r"\S*\Z", "", common.rstrip())
    elif any(character.isalnum() for character in behind):
        # Scripts without spaces between words may be cut anywhere.
        common = re.sub(r"[A-Za-z0-9]*\Z", "", common)
    return common.rstrip()


class _TextRow(Columns):
    """Two texts whose common beginning is the prompt: the same turns, or else the same words."""

    keys = ("chosen", "rejected")
    chosen: str
    rejected: str
    tools: Tools = ()

    def read(self) -> Preference:
        turns = _turns(self.chosen), _turns(self.rejected)
        if all(turns):
            return _ImplicitRow(chosen=turns[0], rejected=turns[1], tools=self.tools).read()
        prompt = _common_words(self.chosen, self.rejected)
        if not prompt:
            raise DataError(_NO_PROMPT)
        chosen, rejected = (
            (Message("assistant", text[len(prompt) :]),) for text in (self.chosen, self.rejected)
        )
        return _preference((Message("user", prompt),), chosen, rejected, self.tools)


_SPEAKERS: Final = {"Human": "user", "Assistant": "assistant"}
_TURN: Final = re.compile(rf"(?:\A\s*|\n\n)({'|'.join(_SPEAKERS)}):")


def _turns(text: str) -> tuple[Message, ...]:
    """The turns of a transcript of ``Human:`` and ``Assistant:``; none of another text.

    Source: Bai et al. 2022, whose data set is written so, https://arxiv.org/abs/2204.05862
    """
    before, *rest = _TURN.split(text)
    if before:
        return ()
    said = zip(rest[0::2], rest[1::2], strict=True)
    return tuple(Message(_SPEAKERS[who], words.strip()) for who, words in said)


def _preference(
    prompt: tuple[Message, ...],
    chosen: tuple[Message, ...],
    rejected: tuple[Message, ...],
    tools: tuple[dict[str, Any], ...],
) -> Preference:
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not any(message.role == "assistant" for message in answer):
            raise DataError(f"{name} must have an assistant's answer behind the prompt, got none")
        if answer[0].role not in ANSWERING:
            raise DataError(
                f"{name} must go on with a message of the assistant behind the prompt, got "
                f"{answer[0].role}"
            )
    return Preference(
        Conversation(prompt + chosen, len(prompt), tools),
        Conversation(prompt + rejected, len(prompt), tools),
    )


def parse_preference(row: Any, index: Place | None = None) -> Preference:
    """What a row of preferences says.

    A row has ``chosen`` and ``rejected``, and perhaps ``prompt``. Each is text or a list of
    messages. Without a prompt both are conversations or both are texts, and their longest common
    beginning is the prompt; of texts, the longest that ends with a whole word, but a transcript of
    ``Human:`` and ``Assistant:`` is a conversation.

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
            f"{name} must have prompt, chosen, rejected; or chosen, rejected that begin alike; "
            f"got {', '.join(map(str, row)) or 'no columns'} without {' and '.join(missing)}"
        )
    kind: type[_ExplicitRow | _TextRow | _ImplicitRow] = _ExplicitRow
    if row.get("prompt") is None:
        texts = all(isinstance(row[key], str) for key in _ImplicitRow.keys)
        kind = _TextRow if texts else _ImplicitRow
    columns = checked(kind, row, name)
    try:
        return columns.read()
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
