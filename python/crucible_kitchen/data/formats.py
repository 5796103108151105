"""Rows of data sets as conversations: which of the known formats a row has, and what it says."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
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


def _list(value: Any, of: str) -> Sequence[Any]:
    """A list, or JSON of one: a table's column has one shape, so data sets write lists as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"must be a list of {of}, or JSON of one, got {value!r:.40}") from None
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ValueError(f"must be a list of {of}, got {type(value).__name__}")
    return value


def _messages(value: Any) -> tuple[Message, ...]:
    value = _list(value, "messages")
    if not value:
        raise ValueError("must hold at least one message, got an empty list")
    messages = []
    for position, item in enumerate(value):
        try:
            messages.append(Message.coerce(item))
        except (TypeError, ValueError) as error:
            raise ValueError(f"message {position}: {error}") from None
    return tuple(messages)


def _prompt(value: Any) -> tuple[Message, ...]:
    return (Message("user", value),) if isinstance(value, str) else _messages(value)


def _completion(value: Any) -> tuple[Message, ...]:
    return (Message("assistant", value),) if isinstance(value, str) else _messages(value)


_SHAREGPT_ROLES: Final[Mapping[str, str]] = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
}


def _turns(value: Any) -> tuple[Message, ...]:
    """ShareGPT's turns, ``{"from": ..., "value": ...}``; ordinary messages pass too."""
    plain: list[Any] = []
    for position, turn in enumerate(_list(value, "messages")):
        if not isinstance(turn, Mapping) or "from" not in turn:
            plain.append(turn)
            continue
        if "value" not in turn:
            raise ValueError(f"message {position}: must have 'from' and 'value', got {list(turn)}")
        role = _SHAREGPT_ROLES.get(turn["from"], turn["from"])
        plain.append({"role": role, "content": turn["value"]})
    return _messages(plain)


def _tools(value: Any) -> tuple[Any, ...]:
    return tuple(_list(value, "tools"))


_WRITTEN: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def _yes_or_no(value: Any) -> Any:
    """True or false as numbers, and as the text of a CSV file."""
    if isinstance(value, str):
        return _WRITTEN.get(value.strip().lower(), value)
    return bool(value) if isinstance(value, int) and value in (0, 1) else value


def _number(value: Any) -> Any:
    """A number as the text of a CSV file; what is none is left to be refused."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _answer(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages that go on where a prompt ends."""
    if messages[0].role not in ANSWERING:
        raise ValueError(
            f"must begin with a message of the assistant, behind the prompt, got {messages[0].role}"
        )
    return messages


ANSWERING: Final = ("assistant", "tool")
"""Who may speak first behind a prompt."""


Messages = Annotated[tuple[Message, ...], BeforeValidator(_messages)]
Prompt = Annotated[tuple[Message, ...], BeforeValidator(_prompt)]
Completion = Annotated[tuple[Message, ...], BeforeValidator(_completion)]
Answer = Annotated[Completion, AfterValidator(_answer)]
Turns = Annotated[tuple[Message, ...], BeforeValidator(_turns)]
Tools = Annotated[tuple[dict[str, Any], ...], BeforeValidator(_tools)]
YesOrNo = Annotated[bool, BeforeValidator(_yes_or_no)]
Number = Annotated[float, BeforeValidator(_number)]


class Columns(BaseModel):
    """The columns of a row in one format, checked; other columns are left alone."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="ignore", strict=True)
    keys: ClassVar[tuple[str, ...]]
    """A row that has all of these is in this format."""


class Format(Columns):
    """A format whose rows say one thing."""

    @abstractmethod
    def read(self) -> Conversation | PlainText:
        """What the row says."""


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
        first = (Message("system", self.system),) if self.system else ()
        return Conversation(first + self.conversations, tools=self.tools)


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

    def read(self) -> Conversation:
        prompt = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return Conversation((Message("user", prompt), Message("assistant", self.output)), 1)


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


Place = int | str
"""Where a row is in its data set: its number, or in a mixture its number and the data set."""


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


C = TypeVar("C", bound=Columns)


def checked(kind: type[C], row: Mapping[Any, Any], name: str) -> C:
    """The columns of a row in one format.

    Raises:
        DataError: a value is not what the format wants; `name` says of which row.
    """
    columns = {
        key: row[key]
        for key, field in kind.model_fields.items()
        # A CSV file has empty text where a row says nothing.
        if row.get(key) is not None and (field.is_required() or row[key] != "")
    }
    try:
        return kind(**columns)
    except ValidationError as error:
        findings = []
        for finding in error.errors():
            column = ".".join(map(str, finding["loc"]))
            # Our own checks say what came; pydantic's need it added.
            text = finding["msg"].removeprefix("Value error, ")
            ours = finding["type"] == "value_error"
            findings.append(
                f"{column}: {text}"
                if ours
                else f"{column}: {text[:1].lower()}{text[1:]}, got {finding['input']!r:.80}"
            )
        raise DataError(f"{name}: {'; '.join(findings)}") from None
