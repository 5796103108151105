"""A `Completer` over any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast, get_args

from crucible_kitchen import ports
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import Conversation, completion_params
from crucible_kitchen.types import (
    Completion,
    CompletionChunk,
    FinishReason,
    Message,
    SamplingParams,
    ToolCall,
    Usage,
)

from .http import Server

_URL: Final = "https://api.openai.com/v1"
_PATH: Final = "chat/completions"
_LENGTH_FIELDS: Final = ("max_tokens", "max_completion_tokens")


class Completer(ports.Completer):
    """Asks a model behind HTTP. A conversation's tool calls go along; `top_k` where it is given.

    Args:
        model: its name at the server.
        base_url: where ``chat/completions`` is; by default ``OPENAI_BASE_URL``, else OpenAI's own.
        api_key: by default ``OPENAI_API_KEY``; None or empty for a server that asks for none. It is
            sent to this server only, and in no error.
        timeout: seconds without a byte after which the server counts as gone.
        parallel: conversations of a batch that are asked at the same time.
        length_field: ``max_completion_tokens`` for models that refuse ``max_tokens``.
    """

    concurrent = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        parallel: int = 8,
        length_field: str = "max_tokens",
    ) -> None:
        if length_field not in _LENGTH_FIELDS:
            raise ConfigError(
                f"completer: length_field must be one of {', '.join(_LENGTH_FIELDS)}, "
                f"got {length_field!r}"
            )
        if parallel < 1:
            raise ConfigError(f"completer: parallel must be at least 1, got {parallel}")
        url = base_url or os.environ.get("OPENAI_BASE_URL") or _URL
        key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key
        self._server = Server(url, key, timeout)
        self._model, self._parallel, self._length_field = model, parallel, length_field

    def complete(self, messages: Conversation, **options: Any) -> Completion:
        """See `ports.Completer.complete`."""
        answer = self._server.post(_PATH, self._body(messages, options))
        try:
            choice = answer["choices"][0]
            said = choice["message"]
            usage = answer.get("usage") or {}
            calls = tuple(map(ToolCall.coerce, said.get("tool_calls") or ()))
            return Completion(
                said.get("content") or "",
                _reason(choice.get("finish_reason")),
                Usage(usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)),
                calls,
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise PortError(_malformed(error)) from error

    def complete_batch(
        self, conversations: Sequence[Conversation], **options: Any
    ) -> list[Completion]:
        """Ask several conversations at the same time; the answers keep their order."""
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(lambda one: self.complete(one, **options), conversations))

    def stream_complete(self, messages: Conversation, **options: Any) -> Iterator[CompletionChunk]:
        """See `ports.Completer.stream_complete`."""
        body = {**self._body(messages, options), "stream": True}
        return _chunks(self._server.stream(_PATH, body))

    def get_model(self) -> str:
        """Its name at the server."""
        return self._model

    def _body(self, messages: Conversation, options: Mapping[str, Any]) -> dict[str, Any]:
        params = completion_params(options)
        try:
            turns = [_turn(Message.coerce(message)) for message in messages]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"completer: {error}") from error
        if not turns:
            raise PortError("completer: messages must hold at least one message, got none")
        return {"model": self._model, "messages": turns, **self._sampling(params)}

    def _sampling(self, params: SamplingParams) -> dict[str, Any]:
        if any(not isinstance(stop, str) for stop in params.stop or ()):
            raise ConfigError(f"completer: stop must be text for a server, got {params.stop}")
        fields: dict[str, Any] = {
            self._length_field: params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            "stop": list(params.stop) if params.stop else None,
            # Not OpenAI's own, but that of vLLM, llama.cpp and others.
            "top_k": None if params.top_k == -1 else params.top_k,
        }
        return {name: value for name, value in fields.items() if value is not None}


def _turn(message: Message) -> dict[str, Any]:
    """A message as the wire has it: arguments of calls as text, and no thoughts."""
    turn = message.to_dict()
    turn.pop("thinking", None)
    for call in turn.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return turn


def _chunks(events: Iterator[Any]) -> Iterator[CompletionChunk]:
    ended: FinishReason | None = None
    for event in events:
        try:
            for choice in event.get("choices", ())[:1]:
                text = choice.get("delta", {}).get("content")
                if text:
                    yield CompletionChunk(text)
                if choice.get("finish_reason"):
                    ended = _reason(choice["finish_reason"])
        except (TypeError, ValueError, AttributeError) as error:
            raise PortError(_malformed(error)) from error
    if ended is None:
        raise PortError("completer: the server ended its answer without saying why")
    yield CompletionChunk("", ended)


def _reason(said: Any) -> FinishReason:
    if said == "function_call":
        said = "tool_calls"
    if said not in get_args(FinishReason):
        raise ValueError(f"finish_reason must be one of {get_args(FinishReason)}, got {said!r}")
    return cast(FinishReason, said)


def _malformed(error: Exception) -> str:
    return f"completer: the server's answer is no chat completion: {type(error).__name__}: {error}"
