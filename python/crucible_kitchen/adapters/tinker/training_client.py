"""`TrainingClient` over the Tinker API."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from crucible_kitchen import ports
from crucible_kitchen.adapters.open_sessions import OpenSessions
from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import (
    CustomLoss,
    Data,
    Future,
    Session,
    SessionConfig,
    Tokenizer,
    check_datums,
    check_loss,
)
from crucible_kitchen.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    OptimStepResult,
    TensorData,
)

from .service import Line, Service, checkpoint_name, lora_options, made


class TinkerSession(Session):
    """A session of the service.

    Args:
        service: its own client of the service.
        client: the SDK's training client; another one after a checkpoint was loaded.
        line: its results in their order.
    """

    def __init__(self, config: SessionConfig, service: Any, client: Any, line: Line) -> None:
        super().__init__(str(client.model_id), config)
        self.service, self.client, self.line = service, client, line
        self.steps = 0


class TrainingClient(ports.TrainingClient):
    """Trains at the hosted service, or at a server that speaks its protocol.

    Work is sent when it is asked for, and results are awaited later, so that several pieces are on
    their way at once. The scale of the update is always 32 / rank. A service that reports no norm
    of the gradients leaves `OptimStepResult.grad_norm` nan, and one that counts no steps has them
    counted here, from 0 in each session. After a custom loss has raised, the SDK takes no more work
    in its session.

    Args:
        base_url: of the server; by default what ``TINKER_BASE_URL`` says, or the hosted service.
        api_key: by default what ``TINKER_API_KEY`` says; it is in no message.
    """

    concurrent = True

    def __init__(self, *, base_url: str | None = None, api_key: str | None = None) -> None:
        self._service = Service("training_client", base_url, api_key)
        self._open: OpenSessions[TinkerSession] = OpenSessions("training_client")

    def start_session(self, config: SessionConfig | Mapping[str, Any]) -> TinkerSession:
        """See `ports.TrainingClient.start_session`; `checkpoint_path` is a ``tinker://`` path."""
        config = SessionConfig.coerce(config)
        options = lora_options(config)
        service = self._service.connect()
        try:
            with self._service.speaking_our_errors(f"start a session of {config.model}"):
                if config.checkpoint_path is None:
                    asked = service.create_lora_training_client(base_model=config.model, **options)
                else:
                    asked = self._from_state(service, config.checkpoint_path)
                client = made(asked)
        except BaseException:
            with suppress(PortError):  # what failed first is what is told
                self._service.disconnect(service)
            raise
        session = TinkerSession(config, service, client, Line(self._service))
        self._open.add(session, session)
        return session

    def forward_backward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward_backward`."""
        return self._loss(session, "forward_backward", datums, loss_fn, loss_fn_config)

    def forward(
        self,
        session: Session,
        datums: Data,
        loss_fn: str = "cross_entropy",
        loss_fn_config: Mapping[str, float] | None = None,
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward`."""
        return self._loss(session, "forward", datums, loss_fn, loss_fn_config)

    def forward_backward_custom(
        self, session: Session, datums: Data, fn: CustomLoss
    ) -> Future[ForwardBackwardResult]:
        """See `ports.TrainingClient.forward_backward_custom`; `fn` runs here."""
        checked = check_datums(datums, None)
        one = self._open[session]
        raised: list[BaseException] = []
        values: list[float] = []

        def loss(_: Any, logprobs: Any) -> Any:
            try:
                value, metrics = fn(checked, logprobs)
                values.append(float(value.detach()))
            except BaseException as error:  # given to the caller as it is
                raised.append(error)
                raise
            return value, metrics

        def read(output: Any) -> ForwardBackwardResult:
            output.metrics["loss:sum"] = values[0]  # older SDKs leave that of the surrogate there
            return _result(output, values[0])

        try:
            asked = one.client.forward_backward_custom([self._datum(d) for d in checked], loss)
        except BaseException as error:
            # Older SDKs call `fn` before they answer; what it raises is the future's all the same.
            if not raised:
                raise
            asked = concurrent.futures.Future()
            asked.set_exception(error)
        return one.line.add(asked, read, "compute a custom loss", raised)

    def optim_step(
        self, session: Session, params: AdamParams | Mapping[str, Any] | float
    ) -> Future[OptimStepResult]:
        """See `ports.TrainingClient.optim_step`."""
        adam = AdamParams.coerce(params)
        one = self._open[session]

        def read(answer: Any) -> OptimStepResult:
            metrics = {name.partition(":")[0]: v for name, v in (answer.metrics or {}).items()}
            one.steps = int(metrics.get("step", one.steps + 1))
            return OptimStepResult(
                one.steps, metrics.get("grad_norm", math.nan), adam.learning_rate
            )

        asked = one.client.optim_step(self._service.sdk().types.AdamParams(**asdict(adam)))
        return one.line.add(asked, read, "take an optimizer step")

    def save_checkpoint(self, session: Session, path: str) -> Future[str]:
        """See `ports.TrainingClient.save_checkpoint`; the service keeps it, under a name."""
        one = self._open[session]
        asked = one.client.save_state(checkpoint_name(path), overwrite=True)
        return one.line.add(asked, lambda answer: str(answer.path), f"save a checkpoint for {path}")

    def load_checkpoint(self, session: Session, path: str) -> None:
        """See `ports.TrainingClient.load_checkpoint`; `path` is a ``tinker://`` path."""
        one = self._open[session]
        one.line.drain()
        with self._service.speaking_our_errors(f"load the checkpoint {path}"):
            one.client = made(self._from_state(one.service, path))

    def save_weights_for_sampler(self, session: Session, name: str) -> Future[str]:
        """See `ports.TrainingClient.save_weights_for_sampler`."""
        one = self._open[session]
        asked = one.client.save_weights_for_sampler(checkpoint_name(name))
        return one.line.add(asked, lambda answer: str(answer.path), f"save weights for {name}")

    def get_tokenizer(self, session: Session) -> Tokenizer:
        """See `ports.TrainingClient.get_tokenizer`."""
        return self._service.tokenizer(self._open[session].client, session.config.model)

    def close_session(self, session: Session) -> None:
        """See `ports.TrainingClient.close_session`."""
        one = self._open.pop(session)
        if one is not None:
            one.line.drain()
            self._service.disconnect(one.service)

    def close(self) -> None:
        """Close every session."""
        for session in self._open.all():
            self.close_session(session)

    def _loss(
        self,
        session: Session,
        method: str,
        datums: Data,
        loss_fn: str,
        loss_fn_config: Mapping[str, float] | None,
    ) -> Future[ForwardBackwardResult]:
        settings = check_loss(loss_fn, loss_fn_config)
        checked = check_datums(datums, loss_fn)
        one = self._open[session]
        weights = sum(_weight(datum) for datum in checked)

        def read(output: Any) -> ForwardBackwardResult:
            total = output.metrics["loss:sum"]
            return _result(output, total / weights if weights else 0.0)

        given = [self._datum(datum) for datum in checked]
        asked = getattr(one.client, method)(given, loss_fn, settings or None)
        return one.line.add(asked, read, method)

    def _datum(self, datum: Datum) -> Any:
        types = self._service.sdk().types
        return types.Datum(
            model_input=types.ModelInput.from_ints(list(datum.model_input.to_ints())),
            loss_fn_inputs={
                name: types.TensorData.from_numpy(np.ascontiguousarray(tensor.numpy()))
                for name, tensor in datum.loss_fn_inputs.items()
            },
        )

    def _from_state(self, service: Any, path: str) -> Any:
        if not path.startswith("tinker://"):
            raise PortError(f"training_client: a checkpoint must be a tinker:// path, got {path!r}")
        return service.create_training_client_from_state_with_optimizer(path)


def _weight(datum: Datum) -> float:
    weights = datum.loss_fn_inputs.get("weights")
    return float(datum.model_input.length if weights is None else weights.numpy().sum())


def _result(output: Any, loss: float) -> ForwardBackwardResult:
    outputs = [
        {name: TensorData(np.asarray(tensor.to_numpy())) for name, tensor in one.items()}
        for one in output.loss_fn_outputs
    ]
    return ForwardBackwardResult(loss, outputs, dict(output.metrics))
