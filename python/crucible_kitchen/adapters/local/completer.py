"""`Completer` in this process: chat with a local model, or with one that is being trained."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.adapters.chat import answer_text, conversation_tokens
from crucible_kitchen.adapters.local import sampler
from crucible_kitchen.adapters.local.sampling_client import (
    Loaded,
    SamplingClient,
    live,
    prompt_tokens,
    stream,
)
from crucible_kitchen.adapters.local.training_client import TrainingClient
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import (
    Conversation,
    HubClient,
    Session,
    SessionConfig,
    completion_params,
)
from crucible_kitchen.types import (
    Completion,
    CompletionChunk,
    SampledSequence,
    SamplingParams,
    Usage,
)

# What a decoder gives for bytes that are not a whole character yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Completer(ports.Completer):
    """Answers by the model's own chat template. It loads the model at the first question.

    Args:
        model: a hub name, a local folder, or a name such as ``smollm2-135m``.
        checkpoint_path: an adapter or checkpoint folder to put on it.
        training_client: instead of `model`: answer with the weights that its session has now.
        session: an open session of `training_client`; by default, at each question, the open one
            that was started last.
        hub_client: fetches a model that is not on this machine.
        device: as for `SamplingClient`.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
    """

    concurrent = True

    def __init__(
        self,
        model: str | None = None,
        *,
        checkpoint_path: str | None = None,
        training_client: TrainingClient | None = None,
        session: Session | None = None,
        hub_client: HubClient | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        is_live = training_client is not None
        if is_live == (model is not None) or (session is not None and not is_live):
            raise ConfigError(
                "completer: give either model, or training_client and perhaps its session; got "
                f"model={model!r}, training_client={training_client!r}, session={session!r}"
            )
        self._training_client, self._session = training_client, session
        self._sampling_client: SamplingClient | None = None
        self._own_session: Session | None = None
        self._device, self._hub_client = device, hub_client
        self._lock = threading.Lock()
        self._config = (
            None
            if is_live
            else SessionConfig.coerce(
                {"model": model, "checkpoint_path": checkpoint_path, "dtype": dtype}
            )
        )

    def complete(self, messages: Conversation, **options: Any) -> Completion:
        """See `ports.Completer.complete`."""
        params = completion_params(options)
        loaded = self._loaded()
        prompt = _prompt(loaded, messages)
        (answer,) = loaded.worker.submit(
            lambda: sampler.sample(loaded.model, loaded.tokenizer, prompt, 1, params)
        ).result()
        text = answer_text(loaded.tokenizer, answer.tokens, params)
        return Completion(text, answer.stop_reason, Usage(len(prompt), len(answer.tokens)))

    def stream_complete(self, messages: Conversation, **options: Any) -> Iterator[CompletionChunk]:
        """See `ports.Completer.stream_complete`; together the pieces are what `complete` gives."""
        params = completion_params(options)
        loaded = self._loaded()
        prompt = _prompt(loaded, messages)
        tokens: list[int] = []
        answers: list[SampledSequence] = []
        said = ""
        for token in stream(loaded, prompt, params, finished=answers.append):
            tokens.append(token.token)
            text = answer_text(loaded.tokenizer, tokens, params)
            if text != said and not _unsettled(text, params):
                yield CompletionChunk(text[len(said) :])
                said = text
        text = answer_text(loaded.tokenizer, tokens, params)
        yield CompletionChunk(text[len(said) :], answers[0].stop_reason)

    def get_model(self) -> str:
        """The model's name."""
        return (self._live_session().config if self._config is None else self._config).model

    def close(self) -> None:
        """Unload a model that this completer loaded."""
        with self._lock:
            if self._sampling_client is not None:
                self._sampling_client.close()
                self._sampling_client = self._own_session = None

    def _loaded(self) -> Loaded:
        """The model that answers."""
        if self._config is None:
            return live(self._client(), self._live_session())
        with self._lock:
            if self._sampling_client is None or self._own_session is None:
                self._sampling_client = SamplingClient(
                    device=self._device, hub_client=self._hub_client
                )
                self._own_session = self._sampling_client.start_session(self._config)
            return self._sampling_client.loaded(self._own_session)

    def _client(self) -> TrainingClient:
        assert self._training_client is not None
        return self._training_client

    def _live_session(self) -> Session:
        return self._session or self._client().newest_session()


def _prompt(loaded: Loaded, messages: Conversation) -> Sequence[int]:
    """A conversation as the token ids after which the model answers."""
    return prompt_tokens(conversation_tokens(loaded.tokenizer, messages), loaded.model)


def _unsettled(text: str, params: SamplingParams) -> bool:
    """Whether more tokens could change the end of `text`: half a character, or of a stop text."""
    if text.endswith(_INCOMPLETE):
        return True
    stops = [stop for stop in params.stop or () if isinstance(stop, str)]
    return any(text.endswith(stop[:n]) for stop in stops for n in range(1, len(stop)))
