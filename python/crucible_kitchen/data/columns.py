"""Columns of a row: what may stand in them, and how it is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)

from crucible_kitchen.errors import DataError
from crucible_kitchen.types import Message

Place = int | str
"""Where a row is in its data set: its number, or in a mixture its number and the data set."""


def _list(value: Any, wanted: str) -> Sequence[Any]:
    """A list, or JSON of one: a table's column has one shape, so data sets write lists as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"must be {wanted}, or JSON of one, got {value!r:.40}") from None
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ValueError(f"must be {wanted}, got {type(value).__name__}")
    return value


def _messages(value: Any, wanted: str = "a list of messages") -> tuple[Message, ...]:
    value = _list(value, wanted)
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
    if isinstance(value, str):
        return (Message("user", value),)
    return _messages(value, "text or a list of messages")


def _completion(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("assistant", value),)
    return _messages(value, "text or a list of messages")


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
    for position, turn in enumerate(_list(value, "a list of messages")):
        if not isinstance(turn, Mapping) or "from" not in turn:
            plain.append(turn)
            continue
        if "value" not in turn:
            raise ValueError(f"message {position}: must have 'from' and 'value', got {list(turn)}")
        role = _SHAREGPT_ROLES.get(turn["from"], turn["from"])
        plain.append({"role": role, "content": turn["value"]})
    return _messages(plain)


def _tools(value: Any) -> tuple[Any, ...]:
    return tuple(_list(value, "a list of tools"))


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
    for key, value in columns.items():
        if not _is_unicode(value):
            raise DataError(f"{name}: {key}: must be Unicode, got half of a surrogate pair in it")
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


_HALVES: Final = re.compile("[\ud800-\udfff]")


def _is_unicode(value: Any) -> bool:
    """Whether all text in a value can be written; JSON can hold half of a character."""
    if isinstance(value, str):
        return value.isascii() or not _HALVES.search(value)
    if isinstance(value, Mapping):
        return all(map(_is_unicode, (*value, *value.values())))
    return not isinstance(value, list | tuple) or all(map(_is_unicode, value))
