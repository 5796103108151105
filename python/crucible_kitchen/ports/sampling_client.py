"""The `sampling_client` port: a model that writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Union

from crucible_kitchen.errors import PortError

from .base import Port
from .future import Future
from .session import Session

if TYPE_CHECKING:
    from crucible_kitchen.types import ModelInput, SampledSequence, SampledToken, SamplingParams

    from .session_config import SessionConfig

Prompt = Union["ModelInput", Mapping[str, Any], Sequence[int]]
Params = Union["SamplingParams", Mapping[str, Any]]


class SamplingClient(Port):
    """Draws from a model, or asks it for log probabilities."""

    name: ClassVar[str] = "sampling_client"
    handles: ClassVar[tuple[type, ...]] = (Session,)
    handles_change: ClassVar[bool] = False

    @abstractmethod
    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> Session:
        """Load a model, with the update in `config.checkpoint_path` on it if that is given.

        Raises:
            ConfigError: an unknown key or a wrong value.
            PortError: the model or the checkpoint cannot be loaded.
        """

    @abstractmethod
    def sample(
        self, session: Session, prompt: Prompt, num_samples: int, params: Params
    ) -> Future[list[SampledSequence]]:
        """Draw `num_samples` continuations of `prompt`, each independent of the others.

        Raises:
            TypeError, ValueError: a malformed prompt, count or parameter.
            PortError: the session is closed, or the work failed.
        """

    @abstractmethod
    def compute_logprobs(self, session: Session, prompt: Prompt) -> Future[list[float | None]]:
        """Log probability, in nats, of each token given those before it; None for the first."""

    def compute_topk_logprobs(
        self, session: Session, prompt: Prompt, k: int
    ) -> Future[list[list[tuple[int, float]] | None]]:
        """The `k` likeliest tokens in place of each token of the prompt, given those before it.

        Optional: an adapter that does not know them leaves it out.

        Returns:
            For each place, tokens with their log probabilities in nats, likeliest first; None for
            the first place.
        Raises:
            ValueError: `k` is below 1 or above the vocabulary.
            PortError: the session is closed, the work failed, or the adapter has none.
        """
        raise PortError(f"sampling_client: {type(self).__name__} has no top-k log probabilities")

    @abstractmethod
    def close_session(self, session: Session) -> None:
        """Unload the model; again, it changes nothing."""

    def sample_stream(
        self, session: Session, prompt: Prompt, params: Params
    ) -> Iterator[SampledToken]:
        """One continuation, token by token.

        An adapter that does not override this draws the whole before the first token comes.
        """
        from crucible_kitchen.types import SampledToken  # here: see `completion_params`

        (sequence,) = self.sample(session, prompt, 1, params).result()
        yield from map(SampledToken, sequence.tokens, sequence.logprobs)

    def save_value(self, value: Session, path: Path) -> dict[str, Any]:
        """The session's configuration, which is all that it is made of."""
        return value.config.model_dump()

    def load_value(self, saved: Mapping[str, Any], path: Path) -> Session:
        """A new session of that configuration."""
        return self.start_session(saved)
