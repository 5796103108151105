"""Which characters of a rendered conversation are trained, found through the template itself.

A template is a program, so nothing can be known about its output but by running it. The text that
message k adds is the difference between the conversation rendered up to and including k and the
conversation rendered before it; where the assistant's answer begins is where the template itself
asks for one (``add_generation_prompt``). Both need the template to be a prefix code: rendering more
messages must only add text. That is checked, and a template that breaks it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jinja2

from crucible_kitchen.data.formats import Conversation
from crucible_kitchen.errors import ConfigError, DataError, did_you_mean
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import Message

TRAIN_ON: Final = (
    "last_assistant",
    "all_assistant",
    "all_messages",
    "all_tokens",
    "completion_only",
    "customized",
)
"""What a run may train on: the last answer; every answer; the content of every message; every
token, headers too; all that follows the prompt; or the messages marked ``trainable``."""


@dataclass(frozen=True)
class Marked:
    """A rendered conversation.

    Args:
        text: the whole of it.
        spans: ``(start, end)`` in characters of `text`, apart and in order: what is trained.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def check_train_on(train_on: str) -> None:
    """Refuse a name that is not one of `TRAIN_ON`.

    Raises:
        ConfigError: it is not.
    """
    if train_on not in TRAIN_ON:
        advice = did_you_mean(train_on, TRAIN_ON)
        raise ConfigError(
            f"train_on: must be one of {', '.join(TRAIN_ON)}, got {train_on!r}; {advice}"
        )


def chosen(conversation: Conversation, train_on: str) -> list[int]:
    """The messages that are trained, by their place; none, if the conversation has none such.

    Raises:
        DataError: ``customized`` and a message is not marked, or a mark that nothing would read.
    """
    messages = conversation.messages
    _check_marks(messages, train_on)
    answers = [k for k, message in enumerate(messages) if message.role == "assistant"]
    if train_on == "last_assistant":
        return answers[-1:]
    if train_on == "all_assistant":
        return answers
    if train_on == "customized":
        return [k for k, message in enumerate(messages) if message.trainable]
    if train_on == "completion_only":
        return list(range(prompt_length(conversation), len(messages)))
    return list(range(len(messages)))


def prompt_length(conversation: Conversation) -> int:
    """How many messages are the prompt; all of them, if no assistant speaks after it."""
    if conversation.prompt_messages is not None:
        return conversation.prompt_messages
    answers = [k for k, m in enumerate(conversation.messages) if m.role == "assistant"]
    return answers[-1] if answers else len(conversation.messages)


def mark(conversation: Conversation, tokenizer: Tokenizer, train_on: str) -> Marked:
    """Render a conversation with the tokenizer's chat template and find what is trained.

    What follows the last trained message is left out: it can change neither loss nor gradient.

    Raises:
        DataError: the template refuses the messages, or is not a prefix code where it must be.
    """
    picked = chosen(conversation, train_on)
    render = _renderer(tokenizer, conversation.tools)
    if not picked:
        return Marked(render(conversation.messages, False), ())
    messages = conversation.messages[: picked[-1] + 1]
    if conversation.tools:
        _check_shows_tools(messages, render, _renderer(tokenizer, ()))
    _check_shows_calls(messages, picked, render)
    template = _Template(messages, render)
    if train_on == "all_tokens":
        spans = [(0, len(template.text))]
    elif train_on == "completion_only":
        spans = [(template.answer_start(picked[0]), len(template.text))]
    else:
        spans = [template.span(k) for k in picked]
    return Marked(template.text, tuple(spans))


Render = Callable[[Sequence[Message], bool], str]


def _renderer(tokenizer: Tokenizer, tools: Sequence[dict[str, Any]]) -> Render:
    # Only templates that know tools are called with them.
    extra: dict[str, Any] = {"tools": list(tools)} if tools else {}

    def render(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        plain = [_as_templates_read(message) for message in messages]
        try:
            text: str = tokenizer.apply_chat_template(
                plain, tokenize=False, add_generation_prompt=add_generation_prompt, **extra
            )
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template refuses these messages: {error}") from error
        return text

    return render


def _as_templates_read(message: Message) -> dict[str, Any]:
    """A message for templates, which have two names for what an assistant thinks."""
    plain = message.to_dict()
    return plain if message.thinking is None else {**plain, "reasoning_content": message.thinking}


def _check_shows_tools(messages: Sequence[Message], render: Render, without: Render) -> None:
    """Refuse a template that would have the model call tools it was never shown.

    Raises:
        DataError: it does.
    """
    if render(messages, False) == without(messages, False):
        raise DataError(
            "the chat template leaves tools away; a model whose template shows them can learn from "
            "such rows, or tools be left out of them"
        )


def _check_shows_calls(messages: Sequence[Message], picked: Sequence[int], render: Render) -> None:
    """Refuse a template that leaves away tool calls, or what a trained message thinks.

    What was thought in earlier turns many leave away, at inference too.

    Raises:
        DataError: it does; the message of the conversation is named.
    """
    for k, message in enumerate(messages):
        silent: dict[str, Any] = {"tool_calls": ()} if message.tool_calls else {}
        if message.thinking and k in picked:
            silent["thinking"] = None
        for name, nothing in silent.items():
            changed = [*messages[:k], replace(message, **{name: nothing}), *messages[k + 1 :]]
            if render(messages, False) == render(changed, False):
                raise DataError(
                    f"the chat template leaves away {name} of message {k}; a model whose template "
                    "shows them can learn from such rows"
                )


_ONE_ANSWER: Final = "train_on='last_assistant' with one row per answer does not need it"


class _Template:
    """One conversation under one template."""

    def __init__(self, messages: Sequence[Message], render: Render) -> None:
        self._messages, self._render = messages, render
        self.text = render(messages, False)

    def span(self, k: int) -> tuple[int, int]:
        """Where the content of message `k` stands, its end-of-turn included."""
        start, end = self.answer_start(k), self.end(k)
        if start >= end and self._messages[k].content.strip():
            raise DataError(
                f"the chat template writes message {k} ({self._messages[k].role}) only with what "
                "follows it, so it cannot be trained alone; train_on='all_tokens' trains all"
            )
        return start, end

    def answer_start(self, k: int) -> int:
        """Where the content of message `k` begins, behind its header."""
        before = self._messages[:k]
        if self._messages[k].role == "assistant" and before:
            return self._prefix(
                self._render(before, True),
                f"the place of answer {k}",
                "an answer must begin where the template, asked for one, ends: a model with such a "
                "template, or a chat_template.jinja of one's own in its folder, trains it",
            )
        return self._prefix(self._header(k), f"the header of message {k}")

    def end(self, k: int) -> int:
        """Where the text of message `k` ends, its end-of-turn included."""
        if k == len(self._messages) - 1:
            return len(self.text)
        return self._prefix(self._render(self._messages[: k + 1], False), f"message {k}")

    def _header(self, k: int) -> str:
        # Two contents that differ from their first character on share the header and no more.
        one, two = (
            self._render((*self._messages[:k], Message(self._messages[k].role, content)), False)
            for content in ("0", "1")
        )
        return one[: shared(one, two)]

    def _prefix(self, part: str, what: str, advice: str = _ONE_ANSWER) -> int:
        if self.text.startswith(part):
            return len(part)
        at = shared(self.text, part)
        raise DataError(
            f"the chat template renders {what} differently on its own than within the conversation "
            f"({part[at : at + 30]!r} instead of {self.text[at : at + 30]!r}), so what to train "
            f"cannot be found; {advice}"
        )


def shared(one: str, two: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(two)))


def _check_marks(messages: Sequence[Message], train_on: str) -> None:
    marked = [message.trainable is not None for message in messages]
    if train_on == "customized" and not all(marked):
        raise DataError(
            f"message {marked.index(False)} must have trainable, true or false, for "
            "train_on='customized'"
        )
    if train_on != "customized" and any(marked):
        raise DataError(
            f"message {marked.index(True)} has trainable, which only train_on='customized' reads, "
            f"got train_on={train_on!r}"
        )
