"""Rows of data sets as conversations: which of the known formats a row has, and what it says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from crucible_kitchen.data.columns import (
    Answer,
    Columns,
    Messages,
    Place,
    Prompt,
    Tools,
    Turns,
    YesOrNo,
    checked,
)
from crucible_kitchen.errors import DataError
from crucible_kitchen.types import Message


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and where the answer begins.

    Args:
        messages: at least one.
        prompt_messages: how many of them are the prompt; None where the row does not say, which
            makes everything before the last assistant message the prompt.
        tools: tools the assistant may call, as chat templates read them.
        label: whether the answer is a good one; None where the row does not say.
    """

    messages: tuple[Message, ...]
    prompt_messages: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    label: bool | None = None


@dataclass(frozen=True)
class PlainText:
    """Text to learn as it stands, without a conversation around it."""

    text: str


class Format(Columns):
    """A format whose rows say one thing."""

    @abstractmethod
    def read(self) -> Conversation | PlainText:
        """What the row says."""


def _system(text: str | None) -> tuple[Message, ...]:
    """What a row says before its conversation, if it says something."""
    return (Message("system", text),) if text else ()


class _MessagesRow(Format):
    keys = ("messages",)
    messages: Messages
    tools: Tools = ()

    def read(self) -> Conversation:
        return Conversation(self.messages, tools=self.tools)


class _ShareGptRow(Format):
    keys = ("conversations",)
    conversations: Turns
    system: str | None = None
    tools: Tools = ()

    def read(self) -> Conversation:
        return Conversation(_system(self.system) + self.conversations, tools=self.tools)


class _PromptRow(Format):
    keys = ("prompt", "completion")
    prompt: Prompt
    completion: Answer
    tools: Tools = ()
    label: YesOrNo | None = None

    def read(self) -> Conversation:
        messages = self.prompt + self.completion
        return Conversation(messages, len(self.prompt), self.tools, self.label)


class _InstructionRow(Format):
    keys = ("instruction", "output")
    instruction: str
    input: str | None = None
    output: str
    system: str | None = None

    def read(self) -> Conversation:
        asked = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        prompt = (*_system(self.system), Message("user", asked))
        return Conversation((*prompt, Message("assistant", self.output)), len(prompt))


class _TextRow(Format):
    keys = ("text",)
    text: Annotated[str, Field(min_length=1)]

    def read(self) -> PlainText:
        return PlainText(self.text)


# The first whose keys a row has is its format. `text` stands last: data sets of instructions often
# carry the rendered text beside the columns it was made from.
FORMATS: Final[tuple[type[Format], ...]] = (
    _MessagesRow,
    _ShareGptRow,
    _PromptRow,
    _InstructionRow,
    _TextRow,
)


def parse_row(row: Any, index: Place | None = None) -> Conversation | PlainText:
    """What a row says, whichever format it is in.

    Args:
        row: a mapping with the keys of one of `FORMATS`.
        index: place of the row in its data set, for errors.

    Raises:
        DataError: it is in no known format, or a value is not what the format wants.
    """
    name = "row" if index is None else f"row {index}"
    if not isinstance(row, Mapping):
        raise DataError(f"{name} must be a mapping from column to value, got {type(row).__name__}")
    for kind in FORMATS:
        if all(row.get(key) is not None for key in kind.keys):
            return checked(kind, row, name).read()
    known = "; or ".join(", ".join(kind.keys) for kind in FORMATS)
    advice = ""
    if "chosen" in row and "rejected" in row:
        advice = ". Rows of chosen and rejected answers are for preference training"
    columns = ", ".join(str(key) if row[key] is not None else f"{key} (empty)" for key in row)
    raise DataError(f"{name} must have {known}; got {columns or 'no columns'}{advice}")


def to_messages(row: Any, index: Place | None = None) -> list[Message]:
    """The messages of a row that is a conversation.

    Raises:
        DataError: as `parse_row`, or the row is plain text.
    """
    example = parse_row(row, index)
    if isinstance(example, PlainText):
        name = "row" if index is None else f"row {index}"
        raise DataError(f"{name} must be a conversation to have messages, got plain text")
    return list(example.messages)
