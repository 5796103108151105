"""A `Completer` that gives prepared answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import completion_params
from crucible_kitchen.types import Completion, Message, Usage

from .tokenizer import ByteTokenizer

Answer = Callable[[Sequence[Message]], str]


class Completer(ports.Completer):
    """Deterministic: says the same thing to the same conversation.

    Args:
        answer: what to say: a text, or a function of the messages. By default it repeats the last
            message.
    """

    def __init__(self, answer: str | Answer | None = None) -> None:
        self._answer = answer

    def complete(self, messages: ports.Conversation, **options: Any) -> Completion:
        """The prepared answer, cut at a stop text and at `max_tokens` bytes."""
        params = completion_params(options)
        try:
            turns = [Message.coerce(message) for message in messages]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"completer: {error}") from error
        if not turns:
            raise PortError("completer: messages must hold at least one message, got none")
        text = self._say(turns)
        for stop in params.stop or ():
            if isinstance(stop, str):
                text = text.partition(stop)[0]
        tokenizer = ByteTokenizer()
        tokens = tokenizer.encode(text)
        kept = tokens[: params.max_tokens]
        read = sum(len(tokenizer.encode(turn.content)) for turn in turns)
        usage = Usage(read, len(kept))
        if len(kept) < len(tokens):
            return Completion(tokenizer.decode(kept), "length", usage)
        return Completion(text, "stop", usage)

    def get_model(self) -> str:
        """``noop``."""
        return "noop"

    def _say(self, turns: Sequence[Message]) -> str:
        if self._answer is None:
            return f"You said: {turns[-1].content}"
        return self._answer if isinstance(self._answer, str) else self._answer(turns)
