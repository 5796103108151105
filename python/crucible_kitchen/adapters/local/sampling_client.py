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
from crucible_kitchen.adapters.local.bases import Bases
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.adapters.local.training_client import TrainingClient
from crucible_kitchen.adapters.local.worker import Worker
from crucible_kitchen.adapters.open_sessions import OpenSessions
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import (
    Future,
    HubClient,
    Params,
    Prompt,
    Session,
    SessionConfig,
    Tokenizer,
    check_head,
)
from crucible_kitchen.types import ModelInput, SampledSequence, SampledToken, SamplingParams


@dataclass(frozen=True)
class Loaded:
    """A model, its tokenizer, and the one thread that may compute with it."""

    model: CausalModel
    tokenizer: Tokenizer
    worker: Worker


class SamplingClient(ports.SamplingClient):
    """Draws in this process: from models of its own, or from the one that is being trained.

    Over a training client, sessions have no weights of their own. Each draws with those that its
    training session has when its turn comes: what was asked of the training before is done first,
    and nothing has to be saved.

    Args:
        device: of models of its own: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there
            is one.
        hub_client: fetches models that are not on this machine.
        training_client: draw from its sessions. `start_session` joins the open one that was started
            last on the configuration's model; only `model` counts of that configuration.
        beside: a training client on whose device and thread models of its own are drawn from, over
            the frozen weights that they share with it. It must stay open as long as this one.
    """

    concurrent = True

    def __init__(
        self,
        *,
        device: str = "auto",
        hub_client: HubClient | None = None,
        training_client: TrainingClient | None = None,
        beside: TrainingClient | None = None,
    ) -> None:
        self._hub_client, self._training_client = hub_client, training_client
        self._beside = beside
        self._worker = Worker("sampling_client") if beside is None else beside.worker
        self._bases = Bases(device) if beside is None else beside.bases
        self._ids = itertools.count()
        self._open: OpenSessions[Callable[[], Loaded]] = OpenSessions("sampling_client")

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> Session:
        """See `ports.SamplingClient.start_session`; `checkpoint_path` holds an adapter."""
        config = SessionConfig.coerce(config)
        if self._training_client is None:
            source = self._load(config)
        else:
            source = _join(self._training_client, config)
        session = Session(f"local-sampler-{next(self._ids)}", config)
        self._open.add(session, source)
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
        return loaded.worker.submit(
            lambda: sampler.sample(loaded.model, loaded.tokenizer, tokens, num_samples, params)
        )

    def sample_stream(
        self, session: Session, prompt: Prompt, params: Params
    ) -> Iterator[SampledToken]:
        """See `ports.SamplingClient.sample_stream`; leaving the loop ends the drawing."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        return stream(loaded, tokens, SamplingParams.coerce(params))

    def compute_logprobs(self, session: Session, prompt: Prompt) -> Future[list[float | None]]:
        """See `ports.SamplingClient.compute_logprobs`."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        return loaded.worker.submit(lambda: sampler.logprobs(loaded.model, tokens))

    def compute_topk_logprobs(
        self, session: Session, prompt: Prompt, k: int
    ) -> Future[list[list[tuple[int, float]] | None]]:
        """See `ports.SamplingClient.compute_topk_logprobs`."""
        loaded = self.loaded(session)
        tokens = prompt_tokens(prompt, loaded.model)
        if not 1 <= k <= loaded.model.vocabulary:
            most = loaded.model.vocabulary
            raise ValueError(f"sampling_client: k must be from 1 to {most}, got {k!r}")
        return loaded.worker.submit(lambda: sampler.topk_logprobs(loaded.model, tokens, k))

    def get_tokenizer(self, session: Session) -> Tokenizer:
        """The model's tokenizer."""
        return self.loaded(session).tokenizer

    def owns(self, value: object) -> bool:
        """Whether it is an open session of this client."""
        return value in self._open

    def close_session(self, session: Session) -> None:
        """See `ports.SamplingClient.close_session`."""
        if self._open.pop(session) is not None:
            self._worker.submit(lambda: None).result()

    def close(self) -> None:
        """Close every session and end the thread."""
        self._open.clear()
        if self._beside is None:
            self._worker.close()

    def loaded(self, session: Session) -> Loaded:
        """What a session draws from.

        Raises:
            PortError: it, or the training session that it joined, is closed or another client's.
        """
        return self._open[session]()

    def _load(self, config: SessionConfig) -> Callable[[], Loaded]:
        folder = os.fspath(prepare_model(config.model, self._hub_client))
        tokenizer = load_tokenizer(folder, port="sampling_client")

        def load() -> CausalModel:
            model = self._bases.model(folder, dtype=config.dtype)
            if config.checkpoint_path is not None:
                model.load_adapter(config.checkpoint_path)
            return model

        loaded = Loaded(self._worker.submit(load).result(), tokenizer, self._worker)
        return lambda: loaded


def live(client: TrainingClient, session: Session) -> Loaded:
    """The model that a session of a training client trains, as it is.

    Raises:
        PortError: the session is closed or another client's, or gives scores instead of tokens.
    """
    check_head(session, "vocabulary", "sample")
    trainer = client.trainer(session)
    return Loaded(trainer.model, client.get_tokenizer(session), client.worker)


def _join(client: TrainingClient, config: SessionConfig) -> Callable[[], Loaded]:
    if config.checkpoint_path is not None:
        raise ConfigError(
            "start_session: checkpoint_path must be left out over a training_client, whose session "
            f"has weights, got {config.checkpoint_path!r}; make a SamplingClient without one"
        )
    training = client.newest_session(config.model)
    live(client, training)
    return lambda: live(client, training)


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
    loaded: Loaded,
    tokens: Sequence[int],
    params: SamplingParams,
    finished: Callable[[SampledSequence], object] = lambda _: None,
) -> Iterator[SampledToken]:
    """Draw one sample and hand its tokens over as they come.

    Args:
        finished: called with the whole sample after its last token.
    """
    drawn: queue.SimpleQueue[SampledToken | None] = queue.SimpleQueue()
    left = False

    def on_token(token: SampledToken) -> bool:
        drawn.put(token)
        return not left

    future = loaded.worker.submit(
        lambda: sampler.sample(loaded.model, loaded.tokenizer, tokens, 1, params, on_token)
    )
    future.add_done_callback(lambda _: drawn.put(None))
    try:
        while (token := drawn.get()) is not None:
            yield token
        finished(future.result()[0])
    finally:
        left = True
