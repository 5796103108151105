"""Models that are trained: opened, stepped, saved, closed."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import numpy as np

from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

from . import bodies, wire
from .answers import step_answer
from .catalogue import Catalogue
from .saves import Saves
from .state import Checkpoint, Refused, Run, State
from .work import Later, Promise, Work

# The protocol's defaults where they are not the port's.
_LOSS_DEFAULTS: Final = {"cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}}

# A batch that is decoded in less time than another thread needs to wake up.
_QUICK_BYTES: Final = 4096


class Models:
    """The open models of all programs.

    Args:
        client: trains them.
        catalogue: what may be asked for.
        state: what is remembered.
        work: where they stand in line.
        new_sampler: of a program, a checkpoint's path and the program's own number: the id of a
            sampler that draws from it.
    """

    def __init__(
        self,
        client: TrainingClient,
        catalogue: Catalogue,
        state: State,
        work: Work,
        new_sampler: Callable[[str, str, int | None], str],
    ) -> None:
        self._client, self._catalogue, self._state = client, catalogue, state
        self._work, self._saves = work, Saves(client, state, new_sampler)
        self._open: dict[str, Session] = {}
        # Those that may be asked for something, beside the open ones those that are being opened.
        self._begun: set[str] = set()
        self._seen: dict[str, float] = {}

    def create(self, body: bodies.CreateModel) -> tuple[str, Promise]:
        """Open a model with a fresh update; its id, and the promise of it."""
        self._catalogue.check_model(body.base_model)
        lora = body.lora_config
        if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
            raise Refused("lora_config: one of train_attn, train_mlp, train_unembed must be true")
        run = self._new_run(body, body.base_model, lora)
        seed = secrets.randbits(31) if lora.seed is None else lora.seed
        config = {**run.config, "seed": seed}
        return run.id, self._begin(run, lambda: self._start(run, config))

    def load(self, body: bodies.LoadWeights) -> tuple[str, Promise]:
        """Open a model from a checkpoint, with its optimizer or with a fresh one.

        A model that is open, as older programs ask for, is opened anew, in its place in the order.
        """
        if bool(body.session_id) == (body.model_id is not None):
            raise Refused("load_weights: needs either session_id or model_id")
        if body.model_id is not None:
            run = self._state.run(body.model_id)
            return run.id, self._in_order(run.id, body.seq_id, lambda: self._load_again(run, body))
        source, checkpoint = self._loadable(body)
        run = self._new_run(body, source.base_model, source)
        return run.id, self._begin(run, lambda: self._start_from(run, source, checkpoint, body))

    def _loadable(self, body: bodies.LoadWeights) -> tuple[Run, Checkpoint]:
        source, checkpoint = self._state.find(body.path)
        if body.optimizer and checkpoint.state is None:
            raise Refused(f"path: {body.path} has no optimizer's state; sampler weights have none")
        if body.base_model not in (None, source.base_model):
            raise Refused(f"base_model must be {source.base_model!r}, got {body.base_model!r}")
        return source, checkpoint

    def _load_again(self, run: Run, body: bodies.LoadWeights) -> dict[str, Any]:
        source, checkpoint = self._loadable(body)
        if (run.base_model, run.rank, run.targets) != (
            source.base_model,
            source.rank,
            source.targets,
        ):
            raise Refused(f"path: {body.path} must be of the model's base, rank and layers")
        if body.user_metadata is not None:
            run.user_metadata = dict(body.user_metadata)
            self._state.save(run)
        self._client.close_session(self._session(run.id))
        del self._open[run.id]
        return self._start_from(run, source, checkpoint, body)

    def _start_from(
        self, run: Run, source: Run, checkpoint: Checkpoint, body: bodies.LoadWeights
    ) -> dict[str, Any]:
        folder = checkpoint.state if body.optimizer else checkpoint.weights
        config = {**run.config, "seed": source.seed or 0, "checkpoint_path": folder}
        return {**self._start(run, config), "path": body.path, "type": "load_weights"}

    def info(self, model_id: str) -> dict[str, Any]:
        """What a model is."""
        run, session = self._state.run(model_id), self._session(model_id)
        tokenizer = getattr(self._client.get_tokenizer(session), "name_or_path", None)
        data = {"model_name": run.base_model, "tokenizer_id": tokenizer, "arch": None}
        return {
            "model_id": run.id,
            "model_data": data,
            "is_lora": True,
            "lora_rank": run.rank,
            "model_name": run.base_model,
            "type": "get_info",
        }

    def forward_backward(self, batch: wire.Batch) -> Promise:
        """The loss of a batch, and its gradients unless only the loss was asked for."""

        def compute() -> Later:
            session, datums = self._session(batch.model_id), batch.datums()
            base = self._state.run(batch.model_id).base_model
            if batch.loss_fn == "cross_entropy":
                datums = [_weighted(datum) for datum in datums]
            for index, datum in enumerate(datums):
                self._catalogue.check_length(f"datums[{index}]", datum.model_input.length, base)
            settings = {**_LOSS_DEFAULTS.get(batch.loss_fn, {}), **batch.settings()}
            client = self._client
            method = client.forward if batch.forward_only else client.forward_backward
            return Later(method(session, datums, batch.loss_fn, settings), wire.write_result)

        quick = batch.size < _QUICK_BYTES
        return self._in_order(batch.model_id, batch.seq_id, compute, quick=quick)

    def optim_step(self, body: bodies.OptimStep) -> Promise:
        """Apply the gradients."""

        params = body.adam_params.params()

        def step() -> Later:
            return Later(self._client.optim_step(self._session(body.model_id), params), step_answer)

        return self._in_order(body.model_id, body.seq_id, step, quick=True)

    def save(self, body: bodies.SaveWeights) -> Promise:
        """Write a checkpoint that training can go on from."""
        return self._saved(self._saves.write, body)

    def save_for_sampler(self, body: bodies.SaveForSampler) -> Promise:
        """Write weights to draw with, or only make a sampler of them where they get no name."""
        return self._saved(self._saves.write_for_sampler, body)

    def save_external(self, body: bodies.SaveExternal) -> Promise:
        """Write weights to be downloaded."""
        return self._saved(self._saves.write_external, body)

    def seen(self, session_id: str) -> None:
        """Note a sign of a program."""
        self._seen[session_id] = time.monotonic()

    def is_heard(self, session_id: str) -> bool:
        """Whether a program has given a sign lately."""
        since = time.monotonic() - self._catalogue.silent_s
        return self._seen.get(session_id, -math.inf) > since

    def skip(self, body: bytes, why: str) -> None:
        """Give up the place of a request that cannot be read, so that none waits for it for ever.

        Args:
            body: of the request, in which its place can be read or cannot.
            why: what is the matter with it.
        """
        try:
            place = bodies.Place.model_validate_json(body)
        except ValueError:  # it has no place that anything could wait for
            return

        def refuse() -> None:
            raise Refused(why)

        if place.model_id in self._begun:
            with suppress(Refused):  # its turn is over already
                self._work.do_in_order(place.model_id, place.seq_id, refuse)

    def counters(self) -> dict[str, int]:
        """What was trained so far; see `ports.TrainingClient.counters`."""
        return dict(self._client.counters())

    @property
    def open(self) -> int:
        """How many models are open."""
        return len(self._open)

    def close_all(self, session_id: str) -> None:
        """Close those of a program, after what was asked of them; its checkpoints stay."""
        for model_id in [m for m in self._begun if self._state.run(m).session_id == session_id]:
            self._begun.discard(model_id)
            self._work.do(None, lambda model_id=model_id: self._close(model_id))  # type: ignore[misc]

    def let_go(self) -> None:
        """Forget them all, at the end of the server."""
        self._open.clear()

    def _begin(self, run: Run, start: Callable[[], Any]) -> Promise:
        self._begun.add(run.id)
        self.seen(run.session_id)

        def begin() -> Any:
            try:
                return start()
            except BaseException:
                self._begun.discard(run.id)
                raise

        promise = self._work.do(("create", run.id), begin)
        if promise.future.done() and run.id not in self._open:  # asked for again, and closed since
            self._begun.discard(run.id)
        return promise

    def _start(self, run: Run, config: dict[str, Any]) -> dict[str, Any]:
        if len(self._open) >= self._catalogue.max_models:
            self._close_silent()
        if len(self._open) >= self._catalogue.max_models:
            raise Refused(
                f"{self._catalogue.max_models} models are open already; close a program first"
            )
        self._open[run.id] = self._client.start_session(config)
        return {"model_id": run.id, "type": "create_model"}

    def _close_silent(self) -> None:
        """Close models of programs that ended without a word, as those that were killed do."""
        for model_id in list(self._open):
            if not self.is_heard(self._state.run(model_id).session_id):
                self._begun.discard(model_id)
                self._close(model_id)

    def _close(self, model_id: str) -> dict[str, Any]:
        session = self._open.pop(model_id, None)
        if session is not None:
            self._client.close_session(session)
        self._work.forget(model_id)
        return {}

    def _session(self, model_id: str) -> Session:
        if model_id not in self._open:
            raise self._closed(model_id)
        return self._open[model_id]

    def _closed(self, model_id: str) -> Refused:
        run = self._state.run(model_id)
        last = [run.path(c) for c in self._state.checkpoints(run) if c.kind == "weights"]
        go_on = f"go on from {last[-1]}" if last else "it saved no checkpoint"
        return Refused(f"model {model_id!r} is closed, or the server was started anew; {go_on}")

    def _in_order(
        self, model_id: str, number: int, work: Callable[[], Any], *, quick: bool = False
    ) -> Promise:
        # Requests that came before this start of the server never come again, so that one which
        # had its place after them would wait for ever.
        if model_id not in self._begun:
            raise self._closed(model_id)
        run = self._state.run(model_id)
        run.asked = time.time()
        self.seen(run.session_id)
        return self._work.do_in_order(model_id, number, work, quick=quick)

    def _saved(self, write: Callable[[Run, Session, Any], Any], body: bodies.Ordered) -> Promise:
        def save() -> Any:
            return write(self._state.run(body.model_id), self._session(body.model_id), body)

        return self._in_order(body.model_id, body.seq_id, save)

    def _new_run(
        self, body: bodies.CreateModel | bodies.LoadWeights, base: str, lora: bodies.Lora | Run
    ) -> Run:
        self._state.session(body.session_id)
        metadata = None if body.user_metadata is None else dict(body.user_metadata)
        run = Run(
            id=f"{body.session_id}:train:{body.model_seq_id}",
            session_id=body.session_id,
            base_model=base,
            rank=lora.rank,
            seed=lora.seed,
            train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
            train_unembed=lora.train_unembed,
            time=time.time(),
            user_metadata=metadata,
        )
        # A request that comes again finds its run.
        return self._state.runs.get(run.id) or self._state.save(run)


def _weighted(datum: Datum) -> Datum:
    """A datum whose every token counts, unless it says which do."""
    if "weights" in datum.loss_fn_inputs:
        return datum
    ones = np.ones(datum.model_input.length, np.float32)
    return Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": ones})
