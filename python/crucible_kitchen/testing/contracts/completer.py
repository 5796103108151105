"""The contract of `Completer`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import Completer
from crucible_kitchen.types import Message

from .base import PortContract

_HELLO = [{"role": "user", "content": "Say hello."}]


class CompleterContract(PortContract):
    """Any answer will do, but the same one each time at temperature 0.

    `options` go with every call, to keep a real model short.
    """

    port = Completer
    options: ClassVar[dict[str, Any]] = {"max_tokens": 8, "temperature": 0.0}

    def test_answers(self, adapter: Completer) -> None:
        answer = adapter.complete(_HELLO, **self.options)
        assert isinstance(answer.text, str)
        assert answer.finish_reason in ("stop", "length")
        assert answer.usage.prompt_tokens > 0
        assert 0 <= answer.usage.completion_tokens <= self.options["max_tokens"]

    def test_takes_messages_as_values_too(self, adapter: Completer) -> None:
        as_values = adapter.complete([Message("user", "Say hello.")], **self.options)
        assert as_values == adapter.complete(_HELLO, **self.options)

    def test_stops_at_max_tokens(self, adapter: Completer) -> None:
        answer = adapter.complete(_HELLO, **{**self.options, "max_tokens": 1})
        assert answer.usage.completion_tokens <= 1

    def test_answers_a_batch_in_order(self, adapter: Completer) -> None:
        other = [{"role": "user", "content": "Count to three."}]
        alone = [adapter.complete(messages, **self.options) for messages in (_HELLO, other)]
        assert adapter.complete_batch([_HELLO, other], **self.options) == alone
        assert adapter.complete_batch([], **self.options) == []

    def test_streams_the_same_answer(self, adapter: Completer) -> None:
        chunks = list(adapter.stream_complete(_HELLO, **self.options))
        whole = adapter.complete(_HELLO, **self.options)
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert chunks[-1].finish_reason == whole.finish_reason
        assert all(chunk.finish_reason is None for chunk in chunks[:-1])

    def test_names_its_model(self, adapter: Completer) -> None:
        assert adapter.get_model()

    def test_refuses_an_unknown_option(self, adapter: Completer) -> None:
        with pytest.raises(ConfigError, match="did you mean 'temperature'"):
            adapter.complete(_HELLO, temprature=0.5)

    def test_refuses_a_malformed_message(self, adapter: Completer) -> None:
        with pytest.raises(ConfigError, match="role"):
            adapter.complete([{"role": "oracle", "content": "?"}], **self.options)
