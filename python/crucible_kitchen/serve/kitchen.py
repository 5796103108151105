"""What the server does, apart from how it is asked: models, checkpoints and samplers over ports."""

from __future__ import annotations

import itertools
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from crucible_kitchen.ports import SamplingClient, Session, TrainingClient
from crucible_kitchen.types import Datum, ModelInput

from . import bodies, wire
from .state import Checkpoint, NotFound, Refused, Run, SessionRecord, State, moment
from .work import Promise, Work

ALPHA: Final = 32.0
"""The protocol's scale of an update is this over its rank."""

# The protocol's defaults where they are not the port's.
_LOSS_DEFAULTS: Final = {"cispo": {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}}


class Kitchen:
    """Trains and draws for clients.

    Args:
        training_client, sampling_client: do the work; only this server may use them.
        models: names that clients may ask for.
        state: what is remembered.
        max_sequence: most tokens of a sequence, prompt and answer together.
        max_waiting: most requests that may wait.
        max_models: most models that are open at a time.
        max_samplers: most sets of weights that are kept ready for drawing.
    """

    def __init__(
        self,
        training_client: TrainingClient,
        sampling_client: SamplingClient,
        models: Sequence[str],
        state: State,
        *,
        max_sequence: int = 8192,
        max_waiting: int = 4096,
        max_models: int = 8,
        max_samplers: int = 4,
    ) -> None:
        self._training, self._sampling = training_client, sampling_client
        self.models, self.state = tuple(models), state
        self.max_sequence = max_sequence
        self._max_models, self._max_samplers = max_models, max_samplers
        self.work = Work(max_waiting)
        self._open: dict[str, Session] = {}
        self._drawing: OrderedDict[tuple[str, str | None], Session] = OrderedDict()
        self._ids = itertools.count()

    # Sessions.

    def create_session(self, body: bodies.CreateSession) -> SessionRecord:
        """A program begins."""
        metadata = None if body.user_metadata is None else dict(body.user_metadata)
        return self.state.save(
            SessionRecord(
                secrets.token_hex(16), time.time(), metadata, body.tags, body.display_name
            )
        )

    def finish_session(self, session_id: str) -> None:
        """A program ends: its models are closed, its checkpoints stay."""
        self.state.session(session_id)
        for model_id in [m for m in self._open if self.state.run(m).session_id == session_id]:
            self.work.do(None, lambda model_id=model_id: self._close(model_id))  # type: ignore[misc]

    # Models.

    def create_model(self, body: bodies.CreateModel) -> tuple[str, Promise]:
        """Open a model with a fresh update; its id, and the promise of it."""
        self._check_model(body.base_model)
        lora = body.lora_config
        if lora.targets is None:
            raise Refused("lora_config: train_attn or train_mlp must be true; the head is frozen")
        run = self._new_run(body, body.base_model, lora)
        seed = secrets.randbits(31) if lora.seed is None else lora.seed
        config = {**_config(run), "seed": seed}
        return run.id, self.work.do(("create", run.id), lambda: self._start(run, config))

    def load_weights(self, body: bodies.LoadWeights) -> tuple[str, Promise]:
        """Open a model from a checkpoint, with its optimizer or with a fresh one.

        A model that is open, as older programs ask for, is opened anew, in its place in the order.
        """
        if bool(body.session_id) == (body.model_id is not None):
            raise Refused("load_weights: needs either session_id or model_id")
        source, checkpoint = self.state.find(body.path)
        if body.optimizer and checkpoint.state is None:
            raise Refused(f"path: {body.path} has no optimizer's state; sampler weights have none")
        again = body.model_id is not None
        run = (
            self.state.run(body.model_id)
            if body.model_id is not None
            else self._new_run(body, source.base_model, source)
        )
        if (run.base_model, run.rank, run.targets) != (
            source.base_model,
            source.rank,
            source.targets,
        ):
            raise Refused(f"path: {body.path} must be of the model's base, rank and layers")
        folder = checkpoint.state if body.optimizer else checkpoint.weights
        config = {**_config(run), "seed": source.seed or 0, "checkpoint_path": folder}

        def start() -> dict[str, Any]:
            if again:
                self._training.close_session(self._session(run.id))
                del self._open[run.id]
            return {**self._start(run, config), "path": body.path, "type": "load_weights"}

        if again:
            return run.id, self._in_order(run.id, body.seq_id, start)
        return run.id, self.work.do(("create", run.id), start)

    def info(self, model_id: str) -> dict[str, Any]:
        """What a model is."""
        run, session = self.state.run(model_id), self._session(model_id)
        tokenizer = getattr(self._training.get_tokenizer(session), "name_or_path", None)
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

        def compute() -> bytes:
            session, datums = self._session(batch.model_id), batch.datums()
            if batch.loss_fn == "cross_entropy":
                datums = [_weighted(datum) for datum in datums]
            for index, datum in enumerate(datums):
                self._check_length(f"datums[{index}]", datum.model_input.length)
            settings = {**_LOSS_DEFAULTS.get(batch.loss_fn, {}), **batch.settings()}
            client = self._training
            method = client.forward if batch.forward_only else client.forward_backward
            return wire.write_result(method(session, datums, batch.loss_fn, settings).result())

        return self._in_order(batch.model_id, batch.seq_id, compute)

    def optim_step(self, body: bodies.OptimStep) -> Promise:
        """Apply the gradients."""

        def step() -> dict[str, Any]:
            session = self._session(body.model_id)
            done = self._training.optim_step(session, body.adam_params.params()).result()
            metrics = {
                "step:max": float(done.step),
                "grad_norm:mean": done.grad_norm,
                "learning_rate:mean": done.learning_rate,
            }
            return {"metrics": metrics, "type": "optim_step"}

        return self._in_order(body.model_id, body.seq_id, step)

    # Checkpoints.

    def save_weights(self, body: bodies.SaveWeights) -> Promise:
        """Write a checkpoint that training can go on from."""

        def save() -> dict[str, Any]:
            run, session = self.state.run(body.model_id), self._session(body.model_id)
            names = {(c.kind, c.name) for c in self.state.checkpoints(run)}
            if ("weights", body.path) in names and not body.overwrite:
                raise Refused(f"path: there is a checkpoint {body.path!r}; overwrite replaces it")
            folder = self.state.new_folder(run, "weights", body.path)
            self._training.save_checkpoint(session, str(folder)).result()
            weights = self._save_adapter(session, folder.with_name(f"{folder.name}-weights"))
            checkpoint = _checkpoint("weights", body.path, body, weights, str(folder))
            return {"path": self.state.add(run, checkpoint), "type": "save_weights"}

        return self._in_order(body.model_id, body.seq_id, save)

    def save_for_sampler(self, body: bodies.SaveForSampler) -> Promise:
        """Write weights to draw with, or only make a sampler of them where they get no name."""

        def save() -> dict[str, Any]:
            run, session = self.state.run(body.model_id), self._session(body.model_id)
            name = body.path or f"ephemeral-{secrets.token_hex(6)}"
            weights = self._save_adapter(
                session, self.state.new_folder(run, "sampler_weights", name)
            )
            checkpoint = _checkpoint("sampler_weights", name, body, weights, None)
            path = self.state.add(run, checkpoint)
            answer = {"type": "save_weights_for_sampler"}
            if body.path is None:
                owner = self.state.session(run.session_id)
                return {**answer, "sampling_session_id": self._new_sampler(owner, path)}
            return {**answer, "path": path}

        return self._in_order(body.model_id, body.seq_id, save)

    # Drawing.

    def create_sampler(self, body: bodies.CreateSampling) -> str:
        """A model to draw from, loaded when it is first drawn from; its id."""
        owner = self.state.session(body.session_id)
        if (body.base_model is None) == (body.model_path is None):
            raise Refused("create_sampling_session: needs either base_model or model_path")
        return self._new_sampler(owner, self._source(body.base_model, body.model_path))

    def sampler(self, sampler_id: str) -> dict[str, Any]:
        """What a sampler draws from."""
        base, path = self._parts(self._source_of(sampler_id))
        return {"sampler_id": sampler_id, "base_model": base, "model_path": path}

    def sample(self, body: bodies.Sample) -> tuple[list[str], Promise]:
        """Draw; the ids of the samples, and the promise of them."""
        if body.sampling_session_id is not None:
            source = self._source_of(body.sampling_session_id)
        else:
            source = self._source(body.base_model, body.model_path)
        tokens = ModelInput.coerce(body.prompt).to_ints()
        params = body.sampling_params
        room = self.max_sequence - len(tokens)
        self._check_length("prompt with max_tokens", len(tokens) + (params.max_tokens or 1))
        wanted = params.model_dump(include={"seed", "stop", "temperature", "top_k", "top_p"})
        wanted["max_tokens"] = params.max_tokens or room

        def draw() -> bytes:
            session, client = self._sampler_session(source), self._sampling
            given = client.compute_logprobs(session, tokens) if body.prompt_logprobs else None
            drawn = client.sample(session, tokens, body.num_samples, wanted).result()
            return wire.write_samples(drawn, None if given is None else given.result())

        number = body.seq_id
        key = (body.sampling_session_id, number) if number is not None else None
        promise = self.work.do(key if body.sampling_session_id else None, draw)
        return [f"{promise.id}:{i}" for i in range(body.num_samples)], promise

    def close(self) -> None:
        """Finish the work that runs, and let go of all models."""
        self.work.close()
        self._open.clear()
        self._drawing.clear()

    def _start(self, run: Run, config: dict[str, Any]) -> dict[str, Any]:
        if len(self._open) >= self._max_models:
            raise Refused(f"{self._max_models} models are open already; close a program first")
        self._open[run.id] = self._training.start_session(config)
        return {"model_id": run.id, "type": "create_model"}

    def _close(self, model_id: str) -> dict[str, Any]:
        session = self._open.pop(model_id, None)
        if session is not None:
            self._training.close_session(session)
        self.work.forget(model_id)
        return {}

    def _session(self, model_id: str) -> Session:
        if model_id not in self._open:
            run = self.state.run(model_id)
            last = [run.path(c) for c in self.state.checkpoints(run) if c.kind == "weights"]
            go_on = f"go on from {last[-1]}" if last else "it saved no checkpoint"
            raise Refused(f"model {model_id!r} is closed, or the server was started anew; {go_on}")
        return self._open[model_id]

    def _in_order(self, model_id: str, number: int, work: Callable[[], Any]) -> Promise:
        self.state.run(model_id)
        return self.work.do_in_order(model_id, number, work)

    def _new_run(
        self, body: bodies.CreateModel | bodies.LoadWeights, base: str, lora: bodies.Lora | Run
    ) -> Run:
        self.state.session(body.session_id)
        metadata = None if body.user_metadata is None else dict(body.user_metadata)
        run = Run(
            id=f"{body.session_id}:train:{body.model_seq_id}",
            session_id=body.session_id,
            base_model=base,
            rank=lora.rank,
            seed=lora.seed,
            train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
            time=time.time(),
            user_metadata=metadata,
        )
        # A request that comes again finds its run.
        return self.state.runs.get(run.id) or self.state.save(run)

    def _save_adapter(self, session: Session, folder: Path) -> str:
        written = Path(
            self._training.save_weights_for_sampler(session, secrets.token_hex(8)).result()
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, folder)
        return str(folder)

    def _check_model(self, name: str) -> None:
        if name not in self.models:
            raise Refused(f"base_model must be one of {', '.join(self.models)}, got {name!r}")

    def _check_length(self, what: str, length: int) -> None:
        if length > self.max_sequence:
            raise Refused(f"{what} must have at most {self.max_sequence} tokens, got {length}")

    def _source(self, base: str | None, path: str | None) -> str:
        if path is not None:
            self.state.find(path)
            return path
        if base is None:
            raise Refused("asample: needs a sampling_session_id, a base_model or a model_path")
        self._check_model(base)
        return base

    def _new_sampler(self, owner: SessionRecord, source: str) -> str:
        sampler_id = f"{owner.id}:sample:{secrets.token_hex(8)}"
        owner.samplers[sampler_id] = source
        self.state.save(owner)
        return sampler_id

    def _source_of(self, sampler_id: str) -> str:
        owner = self.state.session(sampler_id.partition(":")[0])
        if sampler_id not in owner.samplers:
            raise NotFound(f"no sampling session {sampler_id!r}")
        return owner.samplers[sampler_id]

    def _parts(self, source: str) -> tuple[str, str | None]:
        """A source's base model, and its path where it has one."""
        if not source.startswith("tinker://"):
            return source, None
        return self.state.find(source)[0].base_model, source

    def _sampler_session(self, source: str) -> Session:
        base, path = self._parts(source)
        weights = None if path is None else self.state.find(path)[1].weights
        key = base, weights
        if key not in self._drawing:
            config: dict[str, Any] = {"model": base, "checkpoint_path": weights}
            self._drawing[key] = self._sampling.start_session(config)
        self._drawing.move_to_end(key)
        while len(self._drawing) > self._max_samplers:
            self._sampling.close_session(self._drawing.popitem(last=False)[1])
        return self._drawing[key]


def _weighted(datum: Datum) -> Datum:
    """A datum whose every token counts, unless it says which do."""
    if "weights" in datum.loss_fn_inputs:
        return datum
    ones = np.ones(datum.model_input.length, np.float32)
    return Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": ones})


def run_answer(run: Run, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """A training run as the protocol shows it."""
    answer: dict[str, Any] = {
        "training_run_id": run.id,
        "base_model": run.base_model,
        "model_owner": "local",
        "is_lora": True,
        "lora_rank": run.rank,
        "last_request_time": moment(run.time),
        "user_metadata": run.user_metadata,
        "corrupted": False,
    }
    for kind, name in (
        ("weights", "last_checkpoint"),
        ("sampler_weights", "last_sampler_checkpoint"),
    ):
        last = [checkpoint for checkpoint in checkpoints if checkpoint.kind == kind]
        if last:
            answer[name] = checkpoint_answer(run, last[-1])
    return answer


def checkpoint_answer(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as the protocol shows it."""
    files = [p for p in Path(checkpoint.weights).rglob("*") if p.is_file()]
    return {
        "checkpoint_id": f"{checkpoint.kind}/{checkpoint.name}",
        "checkpoint_type": "training" if checkpoint.kind == "weights" else "sampler",
        "time": moment(checkpoint.time),
        "tinker_path": run.path(checkpoint),
        "size_bytes": sum(file.stat().st_size for file in files),
        "public": checkpoint.public,
        "user_metadata": checkpoint.user_metadata,
        "expires_at": None if checkpoint.expires is None else moment(checkpoint.expires),
    }


def _checkpoint(
    kind: str,
    name: str,
    body: bodies.SaveWeights | bodies.SaveForSampler,
    weights: str,
    state: str | None,
) -> Checkpoint:
    now = time.time()
    expires = None if body.ttl_seconds is None else now + body.ttl_seconds
    metadata = None if body.user_metadata is None else dict(body.user_metadata)
    return Checkpoint(kind, name, weights, state, now, expires, user_metadata=metadata)


def _config(run: Run) -> dict[str, Any]:
    return {
        "model": run.base_model,
        "lora_rank": run.rank,
        "lora_alpha": ALPHA,
        "lora_targets": run.targets,
    }
