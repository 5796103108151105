"""The `training_client` port: a model that learns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Union

from crucible_kitchen.errors import PortError

from .base import Port
from .future import Future
from .session import Session
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from crucible_kitchen.types import AdamParams, Datum, ForwardBackwardResult, OptimStepResult

    from .session_config import SessionConfig

CustomLoss = Callable[
    [Sequence["Datum"], Sequence["torch.Tensor"]], tuple["torch.Tensor", Mapping[str, float]]
]
"""Given the datums and each one's log probabilities [T] (differentiable), a loss and metrics.

In a session with a scalar head, each one's score [1] stands in place of its log probabilities.
"""

Data = Sequence[Union["Datum", Mapping[str, Any]]]


class TrainingClient(Port):
    """Trains a low-rank update of a frozen model, one explicit step at a time.

    Futures of one session complete in the order in which their work was asked for. Gradients add up
    over calls until `optim_step`, and are those of the **sum** over tokens of weight times loss, so
    that splitting a batch over calls changes nothing. The losses stand in `ports.LOSSES`.
    """

    name: ClassVar[str] = "training_client"
    handles: ClassVar[tuple[type, ...]] = (Session,)

    @abstractmethod
    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> Session:
        """Load a model and put a fresh update on it, or the one in `config.checkpoint_path`.

        Raises:
            ConfigError: an unknown key or a wrong value.
            PortError: the model or the checkpoint cannot be loaded.
        """

    @abstractmethod
    def forward_backward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """Add the gradients of a batch to those the session holds.

        Args:
            datums: the batch, each as long as it likes.
            loss_fn: a name in `ports.LOSSES`.
            loss_fn_config: values for that loss's keys; absent ones take their defaults.
        Returns:
            The loss in nats and, per datum, the log probabilities of its target tokens [T].
        Raises:
            ConfigError: an unknown loss or key.
            DataError: a datum that lacks an input of this loss, or an empty batch.
            PortError: the session is closed, or the work failed.
        """

    @abstractmethod
    def forward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """As `forward_backward`, without gradients, and without dropout."""

    @abstractmethod
    def forward_backward_custom(
        self, session: Session, datums: Data, fn: CustomLoss
    ) -> Future[ForwardBackwardResult]:
        """Add the gradients of a loss of the caller's own.

        Args:
            datums: the batch; only ``target_tokens`` are needed, and with a scalar head nothing but
                the input.
            fn: called once as ``fn(datums, logprobs)``, one differentiable tensor [T] per datum;
                gives a scalar loss, which is the sum to differentiate, and a mapping of metrics.
        Returns:
            `loss` and ``metrics["loss:sum"]`` are the value of `fn`; its metrics stand beside them.
            With a scalar head the output of a datum is its ``score`` [1].
        Raises:
            DataError: a datum without ``target_tokens``, or an empty batch.
            PortError: the session is closed, or the work failed. What `fn` raises comes unchanged.
        """

    def score(self, session: Session, datums: Data) -> Future[list[float]]:
        """One score a datum, at its last token, without gradients and without dropout.

        Optional: an adapter without scalar heads leaves it out, and refuses sessions with one.

        Args:
            session: one with ``head="scalar"``.
            datums: the batch; only their input is read.
        Raises:
            DataError: an empty batch, or a datum without tokens.
            PortError: the session is closed or has no scalar head, or the work failed.
        """
        raise PortError(f"training_client: {type(self).__name__} has no scalar heads")

    @abstractmethod
    def optim_step(
        self, session: Session, params: AdamParams | Mapping[str, Any] | float
    ) -> Future[OptimStepResult]:
        """Apply the gradients the session holds, and clear them.

        Args:
            params: `AdamParams`, a mapping of their fields, or only a learning rate.
        Raises:
            TypeError, ValueError: a value out of its range.
            PortError: the session is closed, or the work failed.
        """

    @abstractmethod
    def save_checkpoint(self, session: Session, path: str) -> Future[str]:
        """Write the update and the optimizer's state, whole or not at all.

        Args:
            path: a folder to write, or a name where the adapter keeps checkpoints itself.
        Returns:
            What `load_checkpoint` and `SessionConfig.checkpoint_path` take.
        Raises:
            PortError: it cannot be written; nothing half written stays behind.
        """

    @abstractmethod
    def load_checkpoint(self, session: Session, path: str) -> None:
        """Put a session back to what it was at `save_checkpoint`, after the work asked for so far.

        Gradients that wait for `optim_step` are cleared.

        Raises:
            PortError: there is no such checkpoint, or it does not fit the session.
        """

    @abstractmethod
    def save_weights_for_sampler(self, session: Session, name: str) -> Future[str]:
        """Make the present weights available to a `SamplingClient`.

        Returns:
            What a sampling session's `checkpoint_path` takes.
        Raises:
            PortError: it cannot be written.
        """

    @abstractmethod
    def get_tokenizer(self, session: Session) -> Tokenizer:
        """The model's tokenizer."""

    def load_tokenizer(self, config: SessionConfig | Mapping[str, Any]) -> Tokenizer:
        """The tokenizer of a model that is not to be trained now.

        An adapter that can do without the model overrides it.

        Raises:
            PortError: it cannot be loaded.
        """
        session = self.start_session(config)
        try:
            return self.get_tokenizer(session)
        finally:
            self.close_session(session)

    def longest_sequence(self, config: SessionConfig | Mapping[str, Any]) -> int | None:
        """How many tokens of a sequence a model was made for; None where nobody says.

        Raises:
            PortError: what the model says of itself cannot be read.
        """
        return None

    def has_gradients(self, session: Session) -> bool:
        """Whether gradients wait for `optim_step`, once the work asked for so far is done.

        A checkpoint would lose them, so a run that writes checkpoints waits until there are none.
        An adapter defines it together with `owns`, so that its sessions can be taken up again.
        """
        raise PortError(
            f"{self.name}: {type(self).__name__} does not say whether gradients wait, so its "
            "sessions cannot be taken up again; define has_gradients"
        )

    def counters(self) -> Mapping[str, int]:
        """How much was done so far, by names of the adapter's own, for whoever watches it."""
        return {}

    def save_value(self, value: Session, path: Path) -> dict[str, Any] | None:
        """The session's configuration, and a checkpoint of it; None while gradients wait."""
        if self.has_gradients(value):
            return None
        self.save_checkpoint(value, str(path)).result()
        return value.config.model_dump()

    def load_value(self, saved: Mapping[str, Any], path: Path) -> Session:
        """A new session at the place of the saved one."""
        session = self.start_session(saved)
        self.load_checkpoint(session, str(path))
        return session

    @abstractmethod
    def close_session(self, session: Session) -> None:
        """Finish the work asked for so far and unload the model; again, it changes nothing."""
