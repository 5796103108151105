"""`TrainingClient` in this process: LoRA on a transformers model, with this package's kernels."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from crucible_kitchen import ports
from crucible_kitchen.adapters.local import batch, checkpoint, joint
from crucible_kitchen.adapters.local.bases import Bases
from crucible_kitchen.adapters.local.device import resolve_device
from crucible_kitchen.adapters.local.group import Group
from crucible_kitchen.adapters.local.models import longest_sequence, prepare_model
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.adapters.local.trainer import Trainer
from crucible_kitchen.adapters.local.worker import Worker
from crucible_kitchen.adapters.open_sessions import OpenSessions
from crucible_kitchen.errors import PortError
from crucible_kitchen.nn import save_lora
from crucible_kitchen.ports import (
    CustomLoss,
    Data,
    Future,
    HubClient,
    Session,
    SessionConfig,
    Tokenizer,
    check_datums,
    check_head,
    check_loss,
)
from crucible_kitchen.types import AdamParams, ForwardBackwardResult, OptimStepResult

T = TypeVar("T")


class LocalSession(Session):
    """A session of this process.

    Args:
        tokenizer: the model's.
        vocabulary: how many token ids the model takes.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - a session's id
        config: SessionConfig,
        tokenizer: Tokenizer,
        vocabulary: int,
    ) -> None:
        super().__init__(id, config)
        self.tokenizer, self.vocabulary = tokenizer, vocabulary


class TrainingClient(ports.TrainingClient):
    """Trains in this process, on one thread of its own; under `torchrun`, in all of its processes.

    Sequences of a batch are laid end to end, never padded; what several of them begin with (a
    system prompt, the prompt of a pair) is computed once; and the head sees only the positions that
    count. So `forward_backward` and `forward_backward_custom` do not compute a position whose
    weight is 0: its log probability reads 0. `forward` computes every position.

    Sessions over one model share its frozen weights. Where `forward_backward` of several of them
    waits, and they train the same layers, it is one pass for all, with updates of their own; each
    gets bit for bit what it gets alone, so that nobody can tell but by the time it takes.

    The processes that `torchrun` starts must ask for the same in the same order. Each computes its
    share of every batch, all get the whole result, and gradients are summed before a step. A
    session with `fsdp` has a part of its own frozen weights in each process.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.
        tokens_per_pass: most tokens that go through the model at once. It bounds memory; results
            do not depend on it beyond rounding. A custom loss needs its batch in one pass. On the
            CPU passes are of 512 where these are full and repeat little of what sequences share.
        hub_client: fetches models that are not on this machine.
        weights_dir: where `save_weights_for_sampler` writes; by default a temporary folder that
            goes with the client.
    """

    concurrent = True

    def __init__(
        self,
        *,
        device: str = "auto",
        tokens_per_pass: int = 8192,
        hub_client: HubClient | None = None,
        weights_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if tokens_per_pass < 1:
            raise ValueError(
                f"training_client: tokens_per_pass must be at least 1, got {tokens_per_pass}"
            )
        self._tokens_per_pass, self._hub_client = tokens_per_pass, hub_client
        self._weights_dir = None if weights_dir is None else Path(weights_dir)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.worker, self.bases = Worker("training_client"), Bases(device)
        self._ids, self._done = itertools.count(), joint.Done()
        self._open: OpenSessions[tuple[LocalSession, Trainer]] = OpenSessions("training_client")

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> LocalSession:
        """See `ports.TrainingClient.start_session`."""
        config = SessionConfig.coerce(config)
        folder = os.fspath(prepare_model(config.model, self._hub_client))
        tokenizer = load_tokenizer(folder, port="training_client")

        def start() -> Trainer:
            device = resolve_device(self.bases.device)
            group = Group.of_environment(device)
            is_sharded = config.fsdp and group.size > 1
            load = self.bases.own if is_sharded else self.bases.model
            model = load(folder, dtype=config.dtype)
            trainer = Trainer(model, config, tokens_per_pass=self._tokens_per_pass, group=group)
            if is_sharded:
                model.shard(trainer.parameters, device)
            if config.checkpoint_path is not None:
                path = Path(config.checkpoint_path)
                # An adapter alone is a place to start from too, with a fresh optimizer.
                if checkpoint.is_checkpoint(path):
                    checkpoint.load(trainer, path)
                else:
                    trainer.model.load_adapter(path)
            return trainer

        trainer = self.worker.submit(start).result()
        session_id = f"local-{next(self._ids)}"
        # What `auto` has come to: numbers that are kept of a session hold for that dtype only.
        started = config.model_copy(update={"dtype": trainer.model.dtype})
        session = LocalSession(session_id, started, tokenizer, trainer.model.vocabulary)
        self._open.add(session, (session, trainer))
        return session

    def forward_backward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward_backward`."""
        return self._losses(session, datums, loss_fn, loss_fn_config, train=True)

    def forward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward`."""
        return self._losses(session, datums, loss_fn, loss_fn_config, train=False)

    def forward_backward_custom(
        self, session: Session, datums: Data, fn: CustomLoss
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward_backward_custom`."""
        trainer = self.trainer(session)
        checked = check_datums(datums, None, head=session.config.head)
        vocabulary = trainer.model.vocabulary
        if session.config.head == "scalar":
            read = batch.sequences(checked, vocabulary=vocabulary)
            return self._submit(session, lambda t: t.forward_backward_scores(read, checked, fn))
        examples = batch.read(checked, vocabulary=vocabulary)
        return self._submit(session, lambda t: t.forward_backward_custom(examples, checked, fn))

    def score(self, session: Session, datums: Data) -> Future[list[float]]:
        """See `ports.TrainingClient.score`."""
        trainer = self.trainer(session)
        check_head(session, "scalar", "score")
        checked = check_datums(datums, None, head="scalar")
        read = batch.sequences(checked, vocabulary=trainer.model.vocabulary)
        return self._submit(session, lambda t: t.score(read))

    def optim_step(
        self, session: Session, params: AdamParams | Mapping[str, Any] | float
    ) -> Future[OptimStepResult]:
        """See `ports.TrainingClient.optim_step`."""
        adam = AdamParams.coerce(params)
        return self._submit(session, lambda t: t.optim_step(adam))

    def save_checkpoint(self, session: Session, path: str) -> Future[str]:
        """See `ports.TrainingClient.save_checkpoint`; `path` is a folder."""
        return self._submit(session, lambda t: checkpoint.save(t, Path(path)))

    def load_checkpoint(self, session: Session, path: str) -> None:
        """See `ports.TrainingClient.load_checkpoint`."""
        self._submit(session, lambda t: checkpoint.load(t, Path(path))).result()

    def owns(self, value: object) -> bool:
        """Whether it is an open session of this client."""
        return value in self._open

    def has_gradients(self, session: Session) -> bool:
        """See `ports.TrainingClient.has_gradients`."""
        return self._submit(session, lambda t: t.has_gradients).result()

    def save_weights_for_sampler(self, session: Session, name: str) -> Future[str]:
        """See `ports.TrainingClient.save_weights_for_sampler`; the format is PEFT's."""
        folder = self._folder_for_weights() / name
        model = session.config.model
        return self._submit(session, lambda t: save_lora(t.model.model, folder, base_model=model))

    def get_tokenizer(self, session: Session) -> Tokenizer:
        """See `ports.TrainingClient.get_tokenizer`."""
        return self._open[session][0].tokenizer

    def load_tokenizer(self, config: SessionConfig | Mapping[str, Any]) -> Tokenizer:
        """See `ports.TrainingClient.load_tokenizer`; the model's weights are not read."""
        folder = prepare_model(SessionConfig.coerce(config).model, self._hub_client)
        return load_tokenizer(os.fspath(folder), port="training_client")

    def longest_sequence(self, config: SessionConfig | Mapping[str, Any]) -> int | None:
        """See `ports.TrainingClient.longest_sequence`; the model's weights are not read."""
        folder = prepare_model(SessionConfig.coerce(config).model, self._hub_client)
        return longest_sequence(folder)

    def counters(self) -> dict[str, int]:
        """See `ports.TrainingClient.counters`; they are those of `joint.Done`."""
        return asdict(self._done)

    def close_session(self, session: Session) -> None:
        """See `ports.TrainingClient.close_session`."""
        if self._open.pop(session) is not None:
            self.worker.submit(lambda: None).result()

    def close(self) -> None:
        """Close every session and end the thread."""
        self._open.clear()
        self.worker.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def newest_session(self, model: str | None = None) -> LocalSession:
        """The open session that was started last, of those on `model` if it is given.

        Raises:
            PortError: none is open.
        """
        for session, _ in reversed(self._open.all()):
            if model in (None, session.config.model):
                return session
        wanted = "a session" if model is None else f"a session of {model!r}"
        others = ", ".join(sorted({repr(one.config.model) for one, _ in self._open.all()}))
        raise PortError(f"training_client: {wanted} must be open, got {others or 'none'}")

    def trainer(self, session: Session) -> Trainer:
        """What a session trains.

        Raises:
            PortError: the session is closed, or another client's.
        """
        return self._open[session][1]

    def _losses(
        self,
        session: Session,
        datums: Data,
        loss_fn: str,
        config: Mapping[str, float] | None,
        *,
        train: bool,
    ) -> Future[ForwardBackwardResult]:
        settings = check_loss(loss_fn, config)
        trainer = self.trainer(session)
        check_head(session, "vocabulary", "forward_backward" if train else "forward")
        checked = check_datums(datums, loss_fn)
        vocabulary = trainer.model.vocabulary
        examples = batch.read(checked, vocabulary=vocabulary, everywhere=not train)
        return self.worker.submit_joint(
            partial(joint.compute, done=self._done, train=train),
            joint.Asked(trainer, examples, loss_fn, settings),
            kind=(train, trainer.kind),
            owner=trainer,
        )

    def _submit(self, session: Session, work: Callable[[Trainer], T]) -> Future[T]:
        trainer = self.trainer(session)
        return self.worker.submit(lambda: work(trainer), owner=trainer)

    def _folder_for_weights(self) -> Path:
        if self._weights_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="crucible-weights-")
            self._weights_dir = Path(self._temporary.name)
        return self._weights_dir
