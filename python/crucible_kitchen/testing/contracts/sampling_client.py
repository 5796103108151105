"""The contract of `SamplingClient`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import SamplingClient
from crucible_kitchen.types import ModelInput, SamplingParams

from .base import PortContract

_PROMPT = [5, 6, 7, 8]


class SamplingClientContract(PortContract):
    """`config` starts a session; its model's vocabulary holds at least tokens 0 to 49."""

    port = SamplingClient
    config: ClassVar[dict[str, Any]] = {"model": "noop"}

    @pytest.fixture
    def session(self, adapter: SamplingClient) -> Any:
        """An open session."""
        return adapter.start_session(self.config)

    def test_draws_as_many_as_asked(self, adapter: SamplingClient, session: Any) -> None:
        params = SamplingParams(max_tokens=3, seed=1)
        draws = adapter.sample(session, ModelInput.from_ints(_PROMPT), 2, params).result()
        assert len(draws) == 2
        for draw in draws:
            assert 1 <= len(draw.tokens) <= 3
            assert len(draw.logprobs) == len(draw.tokens)
            assert all(logprob <= 0 for logprob in draw.logprobs)
            assert draw.stop_reason == "stop" or len(draw.tokens) == 3

    def test_the_same_seed_draws_the_same(self, adapter: SamplingClient, session: Any) -> None:
        params = {"max_tokens": 4, "seed": 7}
        once, again = (adapter.sample(session, _PROMPT, 1, params).result() for _ in range(2))
        assert [draw.tokens for draw in once] == [draw.tokens for draw in again]

    def test_stops_at_a_stop_token(self, adapter: SamplingClient, session: Any) -> None:
        params = {"max_tokens": 4, "temperature": 0.0}
        (free,) = adapter.sample(session, _PROMPT, 1, params).result()
        (cut,) = adapter.sample(session, _PROMPT, 1, {**params, "stop": [free.tokens[0]]}).result()
        assert cut.tokens == free.tokens[:1]
        assert cut.stop_reason == "stop"

    def test_nothing_ends_a_sample_whose_stops_are_none(
        self, adapter: SamplingClient, session: Any
    ) -> None:
        (drawn,) = adapter.sample(session, _PROMPT, 1, {"max_tokens": 40, "stop": []}).result()
        assert (len(drawn.tokens), drawn.stop_reason) == (40, "length")

    def test_streams_what_it_would_draw(self, adapter: SamplingClient, session: Any) -> None:
        params = SamplingParams(max_tokens=3, temperature=0.0)
        streamed = [piece.token for piece in adapter.sample_stream(session, _PROMPT, params)]
        (drawn,) = adapter.sample(session, _PROMPT, 1, params).result()
        assert tuple(streamed) == drawn.tokens

    def test_logprobs_have_none_first(self, adapter: SamplingClient, session: Any) -> None:
        first, *rest = adapter.compute_logprobs(session, _PROMPT).result()
        assert first is None
        assert len(rest) == len(_PROMPT) - 1
        assert all(value is not None and value <= 0 for value in rest)

    def test_refuses_malformed_arguments(self, adapter: SamplingClient, session: Any) -> None:
        with pytest.raises(ValueError, match="num_samples"):
            adapter.sample(session, _PROMPT, 0, {"max_tokens": 1})
        with pytest.raises(ValueError, match="max_tokens"):
            adapter.sample(session, _PROMPT, 1, {"max_tokens": 0})
        with pytest.raises(ConfigError, match="did you mean 'model'"):
            adapter.start_session({"modle": "x"})

    def test_a_closed_session_takes_no_work(self, adapter: SamplingClient, session: Any) -> None:
        adapter.close_session(session)
        adapter.close_session(session)
        with pytest.raises(PortError, match="closed"):
            adapter.sample(session, _PROMPT, 1, {"max_tokens": 1})
        with pytest.raises(PortError, match="closed"):
            adapter.compute_logprobs(session, _PROMPT)
