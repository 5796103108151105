"""A contract is worth what it catches: adapters broken in one way each must not pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen import ports
from crucible_kitchen.adapters import files, noop
from crucible_kitchen.adapters.rows import Rows
from crucible_kitchen.ports import Future
from crucible_kitchen.testing import (
    BlobStoreContract,
    DatasetStoreContract,
    EvaluatorContract,
    MetricsStoreContract,
    ModelRegistryContract,
    PortContract,
    SamplingClientContract,
    TrainingClientContract,
)
from crucible_kitchen.types import ForwardBackwardResult, MetricPoint, RegisteredModel


class MeanOfDatums(noop.TrainingClient):
    """Gives every datum the same say, however many tokens it has."""

    def forward_backward(self, session: Any, datums: Any, *more: Any) -> Any:
        parts = [super(MeanOfDatums, self).forward(session, [d], *more).result() for d in datums]
        whole = super().forward_backward(session, datums, *more).result()
        mean = sum(part.loss for part in parts) / len(parts)
        return Future.resolved(ForwardBackwardResult(mean, whole.loss_fn_outputs, whole.metrics))


class ForwardTrains(noop.TrainingClient):
    """Leaves gradients behind after an evaluation."""

    def forward(self, session: Any, datums: Any, *more: Any) -> Any:
        return super().forward_backward(session, datums, *more)


class ForgetsItsSteps(noop.TrainingClient):
    """Restores weights and not the optimizer."""

    def load_checkpoint(self, session: Any, path: str) -> None:
        super().load_checkpoint(session, path)
        session.steps = 0


class IgnoresTheLoss(noop.TrainingClient):
    """Computes cross entropy, whatever was asked for."""

    def forward_backward(
        self, session: Any, datums: Any, loss_fn: Any = "", loss_fn_config: Any = None
    ) -> Any:
        fields = [{**d.loss_fn_inputs, "weights": [1.0] * d.model_input.length} for d in datums]
        plain = [
            {"model_input": d.model_input, "loss_fn_inputs": f}
            for d, f in zip(datums, fields, strict=True)
        ]
        return super().forward_backward(session, plain)


class OutOfOrder(noop.TrainingClient):
    """Finishes each call before the ones that came earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Any, Any]] = []

    def forward_backward(self, session: Any, datums: Any, *more: Any) -> Any:
        import concurrent.futures

        inner: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.held.append((inner, super().forward_backward(session, datums, *more).result()))
        if len(self.held) == 5:
            for future, result in reversed(self.held):
                future.set_result(result)
        return Future.of(inner)


class ShufflesTheHandle(noop.DatasetStore):
    """Changes the rows of the handle it was given."""

    def shuffle(self, dataset: Rows, seed: int = 0) -> Rows:
        rows = self.to_list(super().shuffle(dataset, seed))
        dataset.rows[:] = rows  # type: ignore[index]
        return dataset


class LosesItsPlace(noop.DatasetStore):
    """Iterates from the start again."""

    def iterate(self, dataset: Rows, batch_size: int) -> Any:
        batches = super().iterate(dataset, batch_size)
        batches.load_state_dict = lambda state: None  # type: ignore[method-assign]
        return batches


class WritesInPlace(files.BlobStore):
    """Opens the blob itself for writing."""

    def write(self, path: str, data: bytes | Iterable[bytes]) -> None:
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            for piece in [data] if isinstance(data, bytes) else data:
                opened.write(piece)


class LimitsFirst(noop.MetricsStore):
    """Keeps the first points instead of the last."""

    def get_history(self, *arguments: Any, limit: int | None = None, **bounds: Any) -> Any:
        return super().get_history(*arguments, **bounds)[:limit]


class DropsNaN(noop.MetricsStore):
    """Forgets values that are not numbers."""

    def read(self, run: ports.Run) -> list[MetricPoint]:
        return [point for point in super().read(run) if point.value == point.value]


class Overwrites(noop.ModelRegistry):
    """Lets a version change."""

    def register(self, name: str, version: str, *more: Any, **fields: Any) -> RegisteredModel:
        self._models.pop(f"{name}:{version}", None)
        return super().register(name, version, *more, **fields)


class MakesNumbersUp(noop.Evaluator):
    """Gives a plausible accuracy without looking."""

    def evaluate(
        self, model: Any, dataset: Iterable[Mapping[str, Any]], metrics: Sequence[str] = ()
    ) -> dict[str, float]:
        return {"accuracy": 0.8, "sample_count": float(len(list(dataset)))}


class IgnoresStops(noop.SamplingClient):
    """Draws on past a stop token."""

    def sample(self, session: Any, prompt: Any, num_samples: int, params: Any) -> Any:
        fields = dict(params) if isinstance(params, Mapping) else params
        if isinstance(fields, dict):
            fields.pop("stop", None)
        return super().sample(session, prompt, num_samples, fields)


BROKEN: list[tuple[type[PortContract], Callable[[str], Any], str]] = [
    (TrainingClientContract, lambda _: MeanOfDatums(), "test_loss_is_the_weighted_mean_in_nats"),
    (TrainingClientContract, lambda _: ForwardTrains(), "test_forward_leaves_no_gradients"),
    (
        TrainingClientContract,
        lambda _: ForgetsItsSteps(),
        "test_a_checkpoint_brings_everything_back",
    ),
    (TrainingClientContract, lambda _: OutOfOrder(), "test_futures_complete_in_order"),
    (
        DatasetStoreContract,
        lambda _: ShufflesTheHandle(),
        "test_shuffle_is_a_permutation_that_depends_on_the_seed",
    ),
    (
        DatasetStoreContract,
        lambda _: LosesItsPlace(),
        "test_iteration_goes_on_from_a_saved_state",
    ),
    (BlobStoreContract, WritesInPlace, "test_a_write_that_fails_leaves_the_old_blob"),
    (MetricsStoreContract, lambda _: LimitsFirst(), "test_history_is_by_step_and_of_one_metric"),
    (ModelRegistryContract, lambda _: Overwrites(), "test_a_version_never_changes"),
    (EvaluatorContract, lambda _: MakesNumbersUp(), "test_measures_what_was_asked_for"),
    (EvaluatorContract, lambda _: MakesNumbersUp(), "test_invents_nothing_for_no_rows"),
    (SamplingClientContract, lambda _: IgnoresStops(), "test_stops_at_a_stop_token"),
]


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs one test of a contract against an adapter, as pytest would."""
    made: list[Any] = []

    def run(contract: type[PortContract], make: Callable[[str], Any], test: str) -> None:
        adapter = make(str(tmp_path / "root"))
        made.append(adapter)
        fixtures: dict[str, Any] = {"adapter": adapter, "tmp_path": tmp_path}
        method = getattr(contract(), test)
        wanted = inspect.signature(method).parameters
        if "session" in wanted:
            fixtures["session"] = adapter.start_session({"model": "noop"})
        method(**{name: fixtures[name] for name in wanted})

    yield run
    for adapter in made:
        adapter.close()


@pytest.mark.parametrize(("contract", "make", "test"), BROKEN)
def test_a_broken_adapter_is_caught(
    tried: Callable[..., None],
    contract: type[PortContract],
    make: Callable[[str], Any],
    test: str,
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        tried(contract, make, test)


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo", "cispo", "dro"])
def test_an_adapter_that_ignores_the_loss_is_caught(
    loss_fn: str, tried: Callable[..., None]
) -> None:
    def follow_formulas(client: Any) -> None:
        session = client.start_session({"model": "noop"})
        contract = TrainingClientContract()
        try:
            contract.test_policy_losses_follow_their_formulas(client, session, loss_fn)
        finally:
            client.close()

    follow_formulas(noop.TrainingClient())
    with pytest.raises(AssertionError):
        follow_formulas(IgnoresTheLoss())


def test_a_store_that_drops_nan_is_caught() -> None:
    with pytest.raises(AssertionError):
        MetricsStoreContract().test_keeps_numbers_that_json_lacks(DropsNaN(), float("nan"))
