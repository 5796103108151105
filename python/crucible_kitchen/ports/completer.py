"""The `completer` port: answers to conversations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Union

from crucible_kitchen.errors import ConfigError

from .base import Port

if TYPE_CHECKING:
    from crucible_kitchen.types import Completion, CompletionChunk, Message, SamplingParams

Conversation = Sequence[Union["Message", Mapping[str, Any]]]


class Completer(Port):
    """Answers conversations in text."""

    name: ClassVar[str] = "completer"

    @abstractmethod
    def complete(self, messages: Conversation, **options: Any) -> Completion:
        """Answer one conversation.

        Args:
            messages: ending with the turn to answer.
            options: fields of `SamplingParams`; by default at most 1024 tokens, temperature 0.7.
        Raises:
            ConfigError: an unknown option or a wrong value.
            PortError: the model cannot be reached.
        """

    @abstractmethod
    def get_model(self) -> str:
        """The name of the model that answers."""

    def complete_batch(
        self, conversations: Sequence[Conversation], **options: Any
    ) -> list[Completion]:
        """Answer several conversations, in order; an adapter that can overlap them overrides it."""
        return [self.complete(messages, **options) for messages in conversations]

    def stream_complete(self, messages: Conversation, **options: Any) -> Iterator[CompletionChunk]:
        """Answer in pieces; by default the whole answer is one piece."""
        from crucible_kitchen.types import CompletionChunk  # here: see `completion_params`

        answer = self.complete(messages, **options)
        yield CompletionChunk(answer.text, answer.finish_reason)


def completion_params(options: Mapping[str, Any]) -> SamplingParams:
    """Options of `complete`, with their defaults, as `SamplingParams`.

    Raises:
        ConfigError: an unknown option or a wrong value.
    """
    from crucible_kitchen.types import SamplingParams  # here: an import of the ports loads no numpy

    try:
        return SamplingParams.from_dict({"max_tokens": 1024, "temperature": 0.7, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"completer: {error}") from error
