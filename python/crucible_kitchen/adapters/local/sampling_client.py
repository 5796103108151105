"""`SamplingClient` in this process: a transformers model with a key-value cache."""

from __future__ import annotations

import itertools
import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.adapters.local import sampler
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.adapters.local.worker import Worker
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import (
    Future,
    HubClient,
    Params,
    Prompt,
    Session,
    SessionConfig,
    Tokenizer,
)
from crucible_kitchen.types import ModelInput, SampledSequence, SampledToken, SamplingParams


@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer."""

    model: CausalModel
    tokenizer: Tokenizer


class SamplingClient(ports.SamplingClient):
    """Draws in this process, on one thread of its own.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.
        hub_client: fetches models that are not on this machine.
    """

    concurrent = True

    def __init__(self, *, device: str = "auto", hub_client: HubClient | None = None) -> None:
        self._device, self._hub_client = device, hub_client
        self.worker = Worker("sampling_client")
        self._ids = itertools.count()
        self._models: dict[str, tuple[Session, Loaded]] = {}

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> Session:
        """See `ports.SamplingClient.start_session`; `checkpoint_path` holds an adapter."""
        config = SessionConfig.coerce(config)
        folder = os.fspath(prepare_model(config.model, self._hub_client))
        tokenizer = load_tokenizer(folder, port="sampling_client")

        def load() -> CausalModel:
            model = CausalModel.load(folder, dtype=config.dtype, device=self._device)
            if config.checkpoint_path is not None:
                model.load_adapter(config.checkpoint_path)
            return model

        loaded = Loaded(self.worker.submit(load).result(), tokenizer)
        session = Session(f"local-sampler-{next(self._ids)}", config)
        self._models[session.id] = session, loaded
        return session

    def sample(
        self, session: Session, prompt: Prompt, num_samples: int, params: Params
    ) -> Future[list[SampledSequence]]:
        """See `ports.SamplingClient.sample`."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        params = SamplingParams.coerce(params)
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"sample: num_samples must be at least 1, got {num_samples!r}")
        return self.worker.submit(
            lambda: sampler.sample(loaded.model, loaded.tokenizer, tokens, num_samples, params)
        )

    def sample_stream(
        self, session: Session, prompt: Prompt, params: Params
    ) -> Iterator[SampledToken]:
        """See `ports.SamplingClient.sample_stream`; leaving the loop ends the drawing."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        return stream(self.worker, loaded, tokens, SamplingParams.coerce(params))

    def compute_logprobs(self, session: Session, prompt: Prompt) -> Future[list[float | None]]:
        """See `ports.SamplingClient.compute_logprobs`."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        return self.worker.submit(lambda: sampler.logprobs(loaded.model, tokens))

    def get_tokenizer(self, session: Session) -> Tokenizer:
        """The model's tokenizer."""
        return self.loaded(session).tokenizer

    def owns(self, value: object) -> bool:
        """Whether it is an open session of this client."""
        return isinstance(value, Session) and self._models.get(value.id, (None,))[0] is value

    def close_session(self, session: Session) -> None:
        """See `ports.SamplingClient.close_session`."""
        if self._models.pop(session.id, None) is not None:
            self.worker.submit(lambda: None).result()

    def close(self) -> None:
        """Close every session and end the thread."""
        self._models.clear()
        self.worker.close()

    def loaded(self, session: Session) -> Loaded:
        """What a session draws from.

        Raises:
            PortError: the session is closed, or another client's.
        """
        entry = self._models.get(session.id)
        # Ids are unique within a client only, so a namesake of another client must not pass.
        if entry is None or entry[0] is not session:
            raise PortError(
                f"sampling_client: session must be open here, got {session.id!r}, which is closed "
                "or another client's"
            )
        return entry[1]


def prompt_tokens(prompt: Prompt, model: CausalModel) -> Sequence[int]:
    """A prompt as token ids.

    Raises:
        TypeError, ValueError: it is malformed or empty, or holds a token the model does not have.
    """
    tokens = ModelInput.coerce(prompt).to_ints()
    if not tokens:
        raise ValueError("sampling_client: prompt must hold at least one token, got none")
    if max(tokens) >= model.vocabulary:
        raise ValueError(
            f"sampling_client: every token must be below the model's vocabulary of "
            f"{model.vocabulary}, got {max(tokens)}"
        )
    return tokens


def stream(
    worker: Worker,
    loaded: Loaded,
    tokens: Sequence[int],
    params: SamplingParams,
    finished: Callable[[SampledSequence], object] = lambda _: None,
) -> Iterator[SampledToken]:
    """Draw one sample on a worker and hand its tokens over as they come.

    Args:
        finished: called with the whole sample after its last token.
    """
    drawn: queue.SimpleQueue[SampledToken | None] = queue.SimpleQueue()
    left = False

    def on_token(token: SampledToken) -> bool:
        drawn.put(token)
        return not left

    future = worker.submit(
        lambda: sampler.sample(loaded.model, loaded.tokenizer, tokens, 1, params, on_token)
    )
    future.add_done_callback(lambda _: drawn.put(None))
    try:
        while (token := drawn.get()) is not None:
            yield token
        finished(future.result()[0])
    finally:
        left = True
