"""A `TrainingClient` that computes no model: its loss falls because steps are counted."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from crucible_kitchen import ports
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import (
    Future,
    SessionConfig,
    check_datums,
    check_head,
    check_loss,
)
from crucible_kitchen.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    OptimStepResult,
    TensorData,
)

from .model import evaluate, logprobs, targets
from .session import NoopSession, read_checkpoint, write_checkpoint
from .tokenizer import ByteTokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One call that the client received: its method, and arguments worth asserting on."""

    method: str
    session: str
    arguments: Mapping[str, Any]


class TrainingClient(ports.TrainingClient):
    """Deterministic, without weights; the port's rules on arguments, order and state all hold.

    The loss falls with every `optim_step` that has gradients to apply and a learning rate above 0.
    Checkpoints whose path has a folder in it are written there; a bare name stays in memory.

    Args:
        weights_dir: where `save_weights_for_sampler` writes; by default they stay in memory.

    Attributes:
        calls: everything asked for, in order, for tests to look at.
    """

    def __init__(self, *, weights_dir: str | os.PathLike[str] | None = None) -> None:
        self.calls: list[Call] = []
        self._weights_dir = weights_dir
        self._executor: ThreadPoolExecutor | None = None
        self._checkpoints: dict[str, dict[str, int]] = {}
        self._sessions: list[NoopSession] = []

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> NoopSession:
        """A session at step 0, or at that of `config.checkpoint_path`."""
        config = SessionConfig.coerce(config)
        path = config.checkpoint_path
        state = {"steps": 0, "learned": 0} if path is None else self._find(path)
        session = NoopSession(f"noop-{len(self._sessions) + 1}", config)
        session.restore(state)
        self._sessions.append(session)
        self._note("start_session", session, config=config)
        return session

    def forward_backward(
        self,
        session: ports.Session,
        datums: ports.Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """The loss at the session's step; the batch counts as gradients."""
        return self._losses("forward_backward", session, datums, loss_fn, loss_fn_config)

    def forward(
        self,
        session: ports.Session,
        datums: ports.Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """The loss at the session's step."""
        return self._losses("forward", session, datums, loss_fn, loss_fn_config)

    def _losses(
        self,
        method: str,
        session: ports.Session,
        datums: ports.Data,
        loss_fn: str,
        loss_fn_config: Mapping[str, float] | None,
    ) -> Future[ForwardBackwardResult]:
        settings = check_loss(loss_fn, loss_fn_config)
        mine = self._open(session)
        check_head(session, "vocabulary", method)
        batch = check_datums(datums, loss_fn)
        self._note(method, mine, datums=len(batch), loss_fn=loss_fn, loss_fn_config=settings)

        def work() -> ForwardBackwardResult:
            result, tokens = evaluate(batch, loss_fn, settings, mine.learned)
            if method == "forward_backward":
                mine.gradients += tokens
            return result

        return self._submit(work)

    def forward_backward_custom(
        self, session: ports.Session, datums: ports.Data, fn: ports.CustomLoss
    ) -> Future[ForwardBackwardResult]:
        """Call `fn` on torch tensors that take gradients, and differentiate what it gives."""
        mine = self._open(session)
        scored = mine.config.head == "scalar"
        batch = check_datums(datums, None, head=mine.config.head)
        self._note("forward_backward_custom", mine, datums=len(batch))

        def work() -> ForwardBackwardResult:
            import torch

            values = [_scores(datum, mine) if scored else _learnt(datum, mine) for datum in batch]
            leaves = [torch.from_numpy(value).requires_grad_() for value in values]
            loss, metrics = fn(batch, leaves)
            loss.backward()  # type: ignore[no-untyped-call]
            for datum, leaf in zip(batch, leaves, strict=True):
                if leaf.grad is not None:
                    mine.gradients += float(leaf.grad.abs().sum())
                    if scored:
                        mine.scores.add_gradient(datum.model_input.to_ints(), float(leaf.grad))
            total = float(loss.detach())
            name = "score" if scored else "logprobs"
            outputs = tuple({name: TensorData(value)} for value in values)
            return ForwardBackwardResult(total, outputs, {**metrics, "loss:sum": total})

        return self._submit(work)

    def score(self, session: ports.Session, datums: ports.Data) -> Future[list[float]]:
        """The scores at the session's step."""
        mine = self._open(session)
        check_head(session, "scalar", "score")
        batch = check_datums(datums, None, head="scalar")
        self._note("score", mine, datums=len(batch))
        return self._submit(lambda: [float(_scores(datum, mine)[0]) for datum in batch])

    def optim_step(
        self, session: ports.Session, params: AdamParams | Mapping[str, Any] | float
    ) -> Future[OptimStepResult]:
        """Count a step, and clear what `forward_backward` left."""
        adam = AdamParams.coerce(params)
        mine = self._open(session)
        self._note("optim_step", mine, params=adam)

        def work() -> OptimStepResult:
            grad_norm = math.sqrt(mine.gradients)
            mine.learned += grad_norm > 0.0 and adam.learning_rate > 0.0
            mine.scores.step(grad_norm > 0.0 and adam.learning_rate > 0.0)
            mine.gradients = 0.0
            mine.steps += 1
            return OptimStepResult(mine.steps, grad_norm, adam.learning_rate)

        return self._submit(work)

    def save_checkpoint(self, session: ports.Session, path: str) -> Future[str]:
        """Keep the session's step in memory under a name, or in a folder."""
        return self._save("save_checkpoint", session, os.fspath(path))

    def save_weights_for_sampler(self, session: ports.Session, name: str) -> Future[str]:
        """As `save_checkpoint`; the noop `SamplingClient` takes any name."""
        folder = os.fspath(name)
        if folder and self._weights_dir is not None:
            folder = os.path.join(self._weights_dir, folder)
        return self._save("save_weights_for_sampler", session, folder)

    def _save(self, method: str, session: ports.Session, path: str) -> Future[str]:
        if not path:
            raise ValueError(f"{method}: path must be a folder or a name, got {path!r}")
        mine = self._open(session)
        self._note(method, mine, path=path)

        def work() -> str:
            state = mine.state()
            if Path(path).name == path:
                self._checkpoints[path] = state
            else:
                write_checkpoint(path, state)
            return path

        return self._submit(work)

    def load_checkpoint(self, session: ports.Session, path: str) -> None:
        """Put the session back to the step it was saved at."""
        mine = self._open(session)
        self._note("load_checkpoint", mine, path=path)

        def work() -> None:
            mine.restore(self._find(os.fspath(path)))

        self._submit(work).result()

    def owns(self, value: object) -> bool:
        """Whether it is an open session of this client."""
        return isinstance(value, NoopSession) and value in self._sessions and not value.closed

    def has_gradients(self, session: ports.Session) -> bool:
        """See `ports.TrainingClient.has_gradients`."""
        mine = self._open(session)
        return self._submit(lambda: mine.gradients > 0.0).result()

    def _find(self, path: str) -> dict[str, int]:
        if path in self._checkpoints:
            return self._checkpoints[path]
        return read_checkpoint(path, "training_client")

    def get_tokenizer(self, session: ports.Session) -> ByteTokenizer:
        """The byte tokenizer, the same for every model; beside `weights_dir` for transformers."""
        self._open(session)
        if self._weights_dir is None:
            return ByteTokenizer()
        folder = Path(self._weights_dir, "tokenizer").resolve()
        ByteTokenizer().save_pretrained(folder)
        return ByteTokenizer(str(folder))

    def close_session(self, session: ports.Session) -> None:
        """Wait for the session's work; it takes no more."""
        mine = self._mine(session)
        if not mine.closed:
            self._note("close_session", mine)
            self._submit(lambda: None).result()
            mine.closed = True

    def close(self) -> None:
        """End the worker thread."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        # One worker, so work is done in the order it was asked for.
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="noop-training-client")
        return Future.of(self._executor.submit(work))

    def _mine(self, session: ports.Session) -> NoopSession:
        if not isinstance(session, NoopSession):
            raise PortError(f"training_client: session must be one of this client, got {session!r}")
        return session

    def _open(self, session: ports.Session) -> NoopSession:
        mine = self._mine(session)
        if mine.closed:
            raise PortError(f"training_client: session {mine.id} is closed")
        return mine

    def _note(self, method: str, session: ports.Session, **arguments: Any) -> None:
        self.calls.append(Call(method, session.id, arguments))


def _learnt(datum: Datum, session: NoopSession) -> npt.NDArray[np.float32]:
    return logprobs(targets(datum), session.learned).astype(np.float32)


def _scores(datum: Datum, session: NoopSession) -> npt.NDArray[np.float32]:
    return np.asarray([session.scores.score(datum.model_input.to_ints())], np.float32)
