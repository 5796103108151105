"""A `SamplingClient` that writes the same made-up text for the same prompt."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crucible_kitchen import ports
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Future, SessionConfig
from crucible_kitchen.types import ModelInput, SampledSequence, SamplingParams

from .model import logprobs
from .session import read_checkpoint
from .tokenizer import ByteTokenizer


class NoopSamplingSession(ports.Session):
    """A session, and how much its checkpoint has learned."""

    def __init__(self, id: str, config: SessionConfig, learned: int) -> None:  # noqa: A002
        super().__init__(id, config)
        self.learned = learned
        self.closed = False


class SamplingClient(ports.SamplingClient):
    """Deterministic, without weights: a sample says which prompt and which draw it belongs to.

    Log probabilities rise with the steps of a checkpoint folder that the noop `TrainingClient`
    wrote; a bare checkpoint name, which stays in that client's memory, counts as no steps.
    """

    def __init__(self) -> None:
        self._sessions = 0

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> NoopSamplingSession:
        """A session with what its checkpoint learned."""
        config = SessionConfig.coerce(config)
        path = config.checkpoint_path
        bare = path is None or Path(path).name == path
        learned = 0 if bare else read_checkpoint(str(path), "sampling_client")["learned"]
        self._sessions += 1
        return NoopSamplingSession(f"noop-sampler-{self._sessions}", config, learned)

    def sample(
        self,
        session: ports.Session,
        prompt: ports.Prompt,
        num_samples: int,
        params: ports.Params,
    ) -> Future[list[SampledSequence]]:
        """Texts such as ``answer 517, draw 0``; limits and stops are kept."""
        mine = _open(session)
        tokens = ModelInput.coerce(prompt).to_ints()
        params = SamplingParams.coerce(params)
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"sample: num_samples must be at least 1, got {num_samples!r}")
        digest = zlib.crc32(repr(tokens).encode()) % 1000
        texts = [f"answer {digest}, draw {index}" for index in range(num_samples)]
        return Future.resolved([_draw(text, params, mine.learned) for text in texts])

    def compute_logprobs(
        self, session: ports.Session, prompt: ports.Prompt
    ) -> Future[list[float | None]]:
        """Those of the noop `TrainingClient` for the same tokens and steps."""
        mine = _open(session)
        tokens = ModelInput.coerce(prompt).to_ints()
        if not tokens:
            raise ValueError("compute_logprobs: prompt must hold at least one token, got none")
        values = logprobs(np.asarray(tokens[1:], dtype=np.int64), mine.learned)
        return Future.resolved([None, *values.tolist()])

    def owns(self, value: object) -> bool:
        """Whether it is an open session of this kind of client."""
        return isinstance(value, NoopSamplingSession) and not value.closed

    def close_session(self, session: ports.Session) -> None:
        """The session takes no more work."""
        _mine(session).closed = True


def _draw(text: str, params: SamplingParams, learned: int) -> SampledSequence:
    tokenizer = ByteTokenizer()
    tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
    end = len(tokens)
    if params.stop == ():  # nothing ends it, so it says it again and again
        tokens = tokens * (params.max_tokens // end + 1)
        end = len(tokens)
    for stop in params.stop or ():
        if isinstance(stop, str):
            found = text.find(stop)
            end = min(end, len(tokenizer.encode(text[:found] + stop)) if found >= 0 else end)
        elif stop in tokens:
            end = min(end, tokens.index(stop) + 1)
    kept = tokens[: min(end, params.max_tokens)]
    values = logprobs(np.asarray(kept, dtype=np.int64), learned)
    return SampledSequence(
        tuple(kept), tuple(values.tolist()), "stop" if len(kept) == end else "length"
    )


def _mine(session: ports.Session) -> NoopSamplingSession:
    if not isinstance(session, NoopSamplingSession):
        raise PortError(f"sampling_client: session must be one of this client, got {session!r}")
    return session


def _open(session: ports.Session) -> NoopSamplingSession:
    mine = _mine(session)
    if mine.closed:
        raise PortError(f"sampling_client: session {mine.id} is closed")
    return mine
