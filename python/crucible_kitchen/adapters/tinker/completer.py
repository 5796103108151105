"""`Completer` over the Tinker API: chat by the model's own template."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.adapters.chat import answer_text, conversation_tokens
from crucible_kitchen.ports import (
    Conversation,
    Future,
    Session,
    SessionConfig,
    Tokenizer,
    completion_params,
)
from crucible_kitchen.types import Completion, SampledSequence, SamplingParams, Usage

from .sampling_client import SamplingClient


class Completer(ports.Completer):
    """Answers with a model of the service, which it opens at the first question.

    Args:
        model: the base model's name at the service.
        checkpoint_path: a ``tinker://`` path of weights to put on it.
        base_url, api_key: as for `SamplingClient`.
    """

    concurrent = True

    def __init__(
        self,
        model: str,
        *,
        checkpoint_path: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
    ) -> None:
        self._config = SessionConfig.coerce({"model": model, "checkpoint_path": checkpoint_path})
        self._client = SamplingClient(base_url=base_url, api_key=api_key)
        self._lock = threading.Lock()
        self._opened: tuple[Session, Tokenizer] | None = None

    def complete(self, messages: Conversation, **options: Any) -> Completion:
        """See `ports.Completer.complete`."""
        return self.complete_batch([messages], **options)[0]

    def complete_batch(
        self, conversations: Sequence[Conversation], **options: Any
    ) -> list[Completion]:
        """See `ports.Completer.complete_batch`; all are on their way at once."""
        params = completion_params(options)
        session, tokenizer = self._open()
        asked: list[tuple[int, Future[list[SampledSequence]]]] = []
        for messages in conversations:
            prompt = conversation_tokens(tokenizer, messages)
            asked.append((len(prompt), self._client.sample(session, prompt, 1, params)))
        return [_answer(tokenizer, n, future.result()[0], params) for n, future in asked]

    def get_model(self) -> str:
        """The weights that answer, or the base model where there are none."""
        return self._config.checkpoint_path or self._config.model

    def close(self) -> None:
        """End the session at the service."""
        with self._lock:
            self._client.close()
            self._opened = None

    def _open(self) -> tuple[Session, Tokenizer]:
        with self._lock:
            if self._opened is None:
                session = self._client.start_session(self._config)
                self._opened = session, self._client.get_tokenizer(session)
            return self._opened


def _answer(
    tokenizer: Tokenizer, prompt: int, drawn: SampledSequence, params: SamplingParams
) -> Completion:
    text = answer_text(tokenizer, drawn.tokens, params)
    return Completion(text, drawn.stop_reason, Usage(prompt, len(drawn.tokens)))
