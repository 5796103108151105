"""`Tokenizer`: what this package asks of one, which is what Hugging Face's already have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, and conversations to text by the model's own template."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a sequence."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills a batch."""
        ...

    @property
    def chat_template(self) -> Any:
        """The Jinja source of the conversation template, None for a model without one."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; with `add_special_tokens`, those the model expects around it."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; with `skip_special_tokens`, without special tokens."""
        ...

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
    ) -> Any:
        """A conversation as text (``tokenize=False``) or as token ids.

        Args:
            conversation: messages as `Message.to_dict` gives them.
            tokenize: give token ids instead of text.
            add_generation_prompt: end where the assistant would begin to answer.
        """
        ...
