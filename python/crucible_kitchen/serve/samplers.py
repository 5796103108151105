"""Weights that are drawn from."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

from crucible_kitchen.ports import SamplingClient, Session
from crucible_kitchen.types import ModelInput, SampledSequence, SamplingParams

from . import bodies, wire
from .catalogue import Catalogue
from .state import NotFound, Refused, State
from .work import Later, Promise, Work

T = TypeVar("T")


class Samplers:
    """The samplers of all programs; weights are loaded when they are first drawn from.

    Args:
        client: draws.
        catalogue: what may be asked for.
        state: what is remembered.
        work: where requests stand in line.
    """

    def __init__(
        self, client: SamplingClient, catalogue: Catalogue, state: State, work: Work
    ) -> None:
        self._client, self._catalogue, self._state, self._work = client, catalogue, state, work
        self._ready: OrderedDict[tuple[str, str | None], Session] = OrderedDict()

    def create(self, body: bodies.CreateSampling) -> str:
        """A model to draw from, loaded when it is first drawn from; its id."""
        source = self._source(body.base_model, body.model_path)
        return self.new(body.session_id, source, body.sampling_session_seq_id)

    def describe(self, sampler_id: str) -> dict[str, Any]:
        """What a sampler draws from."""
        base, path = self._parts(self._source_of(sampler_id))
        return {"sampler_id": sampler_id, "base_model": base, "model_path": path}

    def sample(self, body: bodies.Sample) -> tuple[list[str], Promise]:
        """Draw; the ids of the samples, and the promise of them."""
        source = self._source_for(body)
        tokens = ModelInput.coerce(body.prompt).to_ints()
        params = self._params(body.sampling_params, len(tokens), self._parts(source)[0])
        last, k = body.prompt_logprobs_last_n, body.topk_prompt_logprobs
        if last is not None and not (body.prompt_logprobs and last < len(tokens)):
            raise Refused(
                "prompt_logprobs_last_n must come with prompt_logprobs and be below the prompt's "
                f"{len(tokens)} tokens, got {last}"
            )

        def draw() -> Later:
            session, client = self._sampler_session(source), self._client
            given = client.compute_logprobs(session, tokens) if body.prompt_logprobs else None
            best = client.compute_topk_logprobs(session, tokens, k) if k else None
            drawn = client.sample(session, tokens, body.num_samples, params)

            # What was asked for before the samples is there when they are.
            def read(sequences: Sequence[SampledSequence]) -> bytes:
                return wire.write_samples(
                    sequences,
                    None if given is None else _last(given.result(), last),
                    None if best is None else _last(best.result(), last),
                )

            return Later(drawn, read)

        number = body.seq_id
        key = (body.sampling_session_id, number) if number is not None else None
        promise = self._work.do(key if body.sampling_session_id else None, draw)
        return [f"{promise.id}:{i}" for i in range(body.num_samples)], promise

    def new(self, session_id: str, source: str, number: int | None) -> str:
        """The id of a sampler that draws from a base model or a checkpoint's path.

        Args:
            number: of the program's own; who asks again with the same gets the same sampler.
        """
        owner = self._state.session(session_id)
        name = secrets.token_hex(8) if number is None else str(number)
        sampler_id = f"{owner.id}:sample:{name}"
        there = owner.samplers.setdefault(sampler_id, source)
        if there != source:
            raise Refused(f"sampling_session_seq_id: {number} draws from {there}, got {source}")
        self._state.save(owner)
        return sampler_id

    @property
    def ready(self) -> int:
        """How many sets of weights are ready to be drawn from."""
        return len(self._ready)

    def let_go(self) -> None:
        """Forget them all, at the end of the server."""
        self._ready.clear()

    def _source_for(self, body: bodies.Sample) -> str:
        if body.sampling_session_id is None:
            return self._source(body.base_model, body.model_path)
        if body.base_model is not None or body.model_path is not None:
            raise Refused("base_model and model_path must not come with a sampling_session_id")
        return self._source_of(body.sampling_session_id)

    def _source(self, base: str | None, path: str | None) -> str:
        if path is not None:
            trained = self._state.find(path)[0].base_model
            if base not in (None, trained):
                raise Refused(f"base_model must be that of model_path, {trained!r}, got {base!r}")
            return path
        if base is None:
            raise Refused("needs a sampling_session_id, a base_model or a model_path to draw from")
        self._catalogue.check_model(base)
        return base

    def _params(self, asked: bodies.Params, length: int, base: str) -> SamplingParams:
        """How to draw from a model after a prompt of that length."""
        if not length:
            raise Refused("prompt must hold at least one token, got none")
        whole = length + (asked.max_tokens or 1)
        self._catalogue.check_length("prompt with max_tokens", whole, base)
        most = asked.max_tokens or self._catalogue.longest(base) - length
        how = asked.model_dump(include={"seed", "stop", "temperature", "top_k", "top_p"})
        return SamplingParams(**how, max_tokens=most)

    def _source_of(self, sampler_id: str) -> str:
        owner = self._state.session(sampler_id.partition(":")[0])
        if sampler_id not in owner.samplers:
            raise NotFound(f"no sampling session {sampler_id!r}")
        return owner.samplers[sampler_id]

    def _parts(self, source: str) -> tuple[str, str | None]:
        """A source's base model, and its path where it has one."""
        if not source.startswith("tinker://"):
            return source, None
        return self._state.find(source)[0].base_model, source

    def _sampler_session(self, source: str) -> Session:
        base, path = self._parts(source)
        weights = None if path is None else self._state.find(path)[1].weights
        key = base, weights
        if key not in self._ready:
            config: dict[str, Any] = {"model": base, "checkpoint_path": weights}
            self._ready[key] = self._client.start_session(config)
        self._ready.move_to_end(key)
        while len(self._ready) > self._catalogue.max_samplers:
            self._client.close_session(self._ready.popitem(last=False)[1])
        return self._ready[key]


def _last(values: Sequence[T | None], count: int | None) -> list[T | None]:
    """The values of the last tokens, None in place of the others."""
    silent = 0 if count is None else max(0, len(values) - count)
    return [None] * silent + list(values[silent:])
