"""What completers over token samplers share: a conversation as tokens, and an answer as text."""

from __future__ import annotations

from collections.abc import Sequence

from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import Conversation, Tokenizer
from crucible_kitchen.types import Message, SamplingParams


def conversation_tokens(tokenizer: Tokenizer, messages: Conversation) -> list[int]:
    """A conversation as the token ids after which the model answers.

    Raises:
        ConfigError: a malformed message.
        PortError: no messages, or a model without a chat template.
    """
    try:
        turns = [Message.coerce(message).to_dict() for message in messages]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"completer: {error}") from error
    if not turns:
        raise PortError("completer: messages must hold at least one message, got none")
    if tokenizer.chat_template is None:
        raise PortError("completer: the model must have a chat template, it has none")
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer.encode(text, add_special_tokens=False))


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int], params: SamplingParams) -> str:
    """The answer that tokens spell, up to a stop text."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for stop in params.stop or ():
        if isinstance(stop, str):
            text = text.partition(stop)[0]
    return text
