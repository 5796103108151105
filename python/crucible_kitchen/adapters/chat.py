"""What completers over token samplers share: a conversation as tokens, and an answer as text."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2

from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import Conversation, Tokenizer
from crucible_kitchen.types import Message, SamplingParams


def conversation_tokens(tokenizer: Tokenizer, messages: Conversation) -> list[int]:
    """A conversation as the token ids after which the model answers.

    A model without a chat template goes on with the text of a single message.

    Raises:
        ConfigError: a malformed message.
        PortError: no messages, several without a chat template, or the template refuses them.
    """
    try:
        turns = [Message.coerce(message).to_dict() for message in messages]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"completer: {error}") from error
    if not turns:
        raise PortError("completer: messages must hold at least one message, got none")
    if not tokenizer.chat_template:
        if [turn["role"] for turn in turns] == ["user"]:
            return list(tokenizer.encode(turns[0]["content"]))
        raise PortError(
            "completer: the model must have a chat template for more than one user's message, "
            "it has none"
        )
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        raise PortError(f"completer: the chat template refuses these messages: {error}") from error
    # The template writes the special tokens itself.
    return list(tokenizer.encode(text, add_special_tokens=False))


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int], params: SamplingParams) -> str:
    """The answer that tokens spell, up to a stop text."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in params.stop or ():
        if isinstance(stop, str):
            text = text.partition(stop)[0]
    return text
