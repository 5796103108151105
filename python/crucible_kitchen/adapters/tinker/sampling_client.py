"""`SamplingClient` over the Tinker API."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from crucible_kitchen import ports
from crucible_kitchen.adapters.open_sessions import OpenSessions
from crucible_kitchen.ports import Future, Params, Prompt, Session, SessionConfig, Tokenizer
from crucible_kitchen.types import ModelInput, SampledSequence, SamplingParams

from .service import Line, Service, made


class TinkerSampler(Session):
    """A model that the service draws from.

    Args:
        client: the SDK's sampling client.
        line: its results in their order.
    """

    def __init__(self, id: str, config: SessionConfig, client: Any, line: Line) -> None:  # noqa: A002
        super().__init__(id, config)
        self.client, self.line = client, line


class SamplingClient(ports.SamplingClient):
    """Draws at the hosted service, or at a server that speaks its protocol.

    Args:
        base_url: of the server; by default what ``TINKER_BASE_URL`` says, or the hosted service.
        api_key: by default what ``TINKER_API_KEY`` says; it is in no message.
    """

    concurrent = True

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        self._service = Service("sampling_client", base_url, api_key)
        self._client: Any = None
        self._ids = itertools.count()
        self._open: OpenSessions[TinkerSampler] = OpenSessions("sampling_client")

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> TinkerSampler:
        """See `ports.SamplingClient.start_session`; `checkpoint_path` is a ``tinker://`` path."""
        config = SessionConfig.coerce(config)
        if self._client is None:
            self._client = self._service.connect()
        path = config.checkpoint_path
        source = {"base_model": config.model} if path is None else {"model_path": path}
        with self._service.speaking_our_errors(f"draw from {path or config.model}"):
            client = made(self._client.create_sampling_client(**source))
        session = TinkerSampler(
            f"tinker-sampler-{next(self._ids)}", config, client, Line(self._service)
        )
        self._open.add(session, session)
        return session

    def sample(
        self, session: Session, prompt: Prompt, num_samples: int, params: Params
    ) -> Future[list[SampledSequence]]:
        """See `ports.SamplingClient.sample`."""
        one = self._open[session]
        given = self._prompt(prompt)
        params = SamplingParams.coerce(params)
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"sample: num_samples must be at least 1, got {num_samples!r}")
        fields = asdict(params)
        fields["stop"] = None if params.stop is None else list(params.stop)
        asked = one.client.sample(
            prompt=given,
            num_samples=num_samples,
            sampling_params=self._service.sdk().types.SamplingParams(**fields),
        )
        return one.line.add(asked, _sequences, "draw")

    def compute_logprobs(self, session: Session, prompt: Prompt) -> Future[list[float | None]]:
        """See `ports.SamplingClient.compute_logprobs`."""
        one = self._open[session]
        asked = one.client.compute_logprobs(self._prompt(prompt))
        return one.line.add(asked, list, "compute log probabilities")

    def compute_topk_logprobs(
        self, session: Session, prompt: Prompt, k: int
    ) -> Future[list[list[tuple[int, float]] | None]]:
        """See `ports.SamplingClient.compute_topk_logprobs`."""
        one = self._open[session]
        if k < 1:
            raise ValueError(f"sampling_client: k must be at least 1, got {k!r}")
        asked = one.client.sample(
            prompt=self._prompt(prompt),
            num_samples=1,
            sampling_params=self._service.sdk().types.SamplingParams(max_tokens=1),
            topk_prompt_logprobs=k,
        )
        return one.line.add(asked, _likeliest, "compute top-k log probabilities")

    def get_tokenizer(self, session: Session) -> Tokenizer:
        """The model's tokenizer."""
        return self._service.tokenizer(self._open[session].client, session.config.model)

    def close_session(self, session: Session) -> None:
        """See `ports.SamplingClient.close_session`."""
        one = self._open.pop(session)
        if one is not None:
            one.line.drain()

    def close(self) -> None:
        """Close every session."""
        for session in self._open.all():
            self.close_session(session)
        if self._client is not None:
            self._service.disconnect(self._client)
            self._client = None

    def _prompt(self, prompt: Prompt) -> Any:
        tokens = ModelInput.coerce(prompt).to_ints()
        if not tokens:
            raise ValueError("sampling_client: prompt must hold at least one token, got none")
        return self._service.sdk().types.ModelInput.from_ints(list(tokens))


def _sequences(answer: Any) -> list[SampledSequence]:
    return [SampledSequence(one.tokens, one.logprobs, one.stop_reason) for one in answer.sequences]


def _likeliest(answer: Any) -> list[list[tuple[int, float]] | None]:
    return list(answer.topk_prompt_logprobs)
