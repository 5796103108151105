"""Conversations: messages and the tool calls in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .record import Record

ROLES: Final = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall(Record):
    """A call that a model asks for.

    Args:
        name: the tool.
        arguments: argument name -> value; a JSON object in a string is read.
        id: what the tool's answer refers to, empty where the conversation uses none.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        arguments: Any = self.arguments
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise ValueError(f"ToolCall: arguments must be JSON, got {error}") from None
        if not isinstance(arguments, Mapping):
            raise TypeError(f"ToolCall: arguments must be a mapping, got {arguments!r}")
        object.__setattr__(self, "arguments", dict(arguments))

    @classmethod
    def coerce(cls, value: Any) -> ToolCall:
        """`value` as a `ToolCall`: one already, its fields, or ``{"function": {...}, "id": ...}``.

        Raises:
            TypeError, ValueError: it is none of these, or as the constructor.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"ToolCall: value must be a mapping, got {type(value).__name__}")
        fields = {key: item for key, item in value.items() if key != "type"}
        function = fields.pop("function", None)
        if isinstance(function, Mapping):
            fields = {**function, **fields}
        return cls.from_dict({key: item for key, item in fields.items() if item is not None})

    def to_dict(self) -> dict[str, Any]:
        """The form chat templates read."""
        function = {"name": self.name, "arguments": self.arguments}
        call: dict[str, Any] = {"type": "function", "function": function}
        return {**call, "id": self.id} if self.id else call


@dataclass(frozen=True, slots=True)
class Message(Record):
    """One turn of a conversation.

    Args:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``.
        content: text; a list of ``{"type": "text", "text": ...}`` parts is joined, None is empty.
        tool_calls: the calls an assistant asks for.
        thinking: an assistant's reasoning, kept apart from what it says.
        name: who speaks, where several share a role.
        tool_call_id: the call that a tool's message answers.
        trainable: whether to train on this turn; None leaves it to the run's `train_on`.

    Raises:
        TypeError, ValueError: an unknown role, content that is not text, or a malformed call.
    """

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    trainable: bool | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"Message: role must be one of {', '.join(ROLES)}, got {self.role!r}")
        object.__setattr__(self, "content", _text(self.content))
        calls = tuple(map(ToolCall.coerce, self.tool_calls or ()))
        object.__setattr__(self, "tool_calls", calls)

    @classmethod
    def coerce(cls, value: Any) -> Message:
        """`value` as a `Message`: one already, or a mapping that holds its fields.

        ``reasoning_content`` is another name of ``thinking``; keys without a value are left out.

        Raises:
            TypeError, ValueError: it is neither, or as the constructor.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            said = {key: item for key, item in value.items() if item is not None}
            if "reasoning_content" in said:
                said.setdefault("thinking", said.pop("reasoning_content"))
            return cls.from_dict(said)
        raise TypeError(f"Message: value must be a Message or a mapping, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """The form chat templates read; fields that say nothing are left out."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            plain["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        for key in ("thinking", "name", "tool_call_id"):
            if self[key] is not None:
                plain[key] = self[key]
        return plain


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise TypeError(f"Message: content must be text, got {type(content).__name__}")
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"Message: content must be text or text parts only, got {content!r}")
    return "".join(text for text in texts if text)
