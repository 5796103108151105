"""`run_stage` and `FakePort`: a stage alone, on a state and on ports that a test writes down."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Rng
from crucible_kitchen.errors import PortError, StageError, WorkflowError
from crucible_kitchen.graph import Retry, Stage, loop, stage
from crucible_kitchen.ports import PORTS, DatasetStore, Future, SamplingClient, TrainingClient
from crucible_kitchen.testing import FakePort, InTurn, run_stage
from crucible_kitchen.types import AdamParams


@stage(writes=("step", "norm"))
def learn(
    session: str, step: int, rate: float, *, training_client: TrainingClient, metrics: Metrics
) -> tuple[int, float]:
    done = training_client.optim_step(session, rate).result()  # type: ignore[arg-type]
    metrics.record("norm", done, step=step)  # type: ignore[arg-type]
    return step + 1, done  # type: ignore[return-value]


def test_a_stage_alone() -> None:
    client = FakePort(TrainingClient, optim_step=0.5)
    ran = run_stage(
        learn, {"session": "s", "step": 3}, {"training_client": client}, config={"rate": 1e-4}
    )
    assert ran.written == {"step": 4, "norm": 0.5}
    assert ran["norm"] == 0.5
    assert ran.metrics.latest("norm") == 0.5
    assert client.called("optim_step") == [{"session": "s", "params": 1e-4}]
    assert [e.kind for e in ran.events if e.path == "test/learn"] == ["stage.start", "stage.stop"]
    with pytest.raises(KeyError, match="'nrm' was not written; written was 'step', 'norm'"):
        ran["nrm"]


def test_classes_blocks_and_random_numbers() -> None:
    class Twice(Stage):
        by: int = 2

        def execute(self, ctx: Context) -> Context:
            return ctx.put_state("y", self.by * ctx.state.x)

    assert run_stage(Twice, {"x": 4})["y"] == 8
    assert run_stage(Twice(by=3), {"x": 4}).written == {"y": 12}

    @stage(writes="total")
    def add(item: float, total: float = 0.0, *, rng: Rng) -> float:
        return total + item * rng.random()

    body = loop("l", over="items")[add.bind(item="l.item")]
    assert run_stage(body, {"items": [1, 2]}).written == run_stage(body, {"items": [1, 2]}).written
    assert run_stage(add, {"item": 1.0}, seed=1)["total"] != run_stage(add, {"item": 1.0})["total"]


def test_a_stage_that_cannot_run_is_told_as_in_any_workflow() -> None:
    with pytest.raises(WorkflowError, match=r"reads 'step'.*\n.*\n.*training_client"):
        run_stage(learn, {"session": "s"}, config={"rate": 1.0})
    with pytest.raises(StageError, match="must write 'y' as int, got str"):
        run_stage(stage(writes="y")(_wrong))


def _wrong() -> int:
    return "text"  # type: ignore[return-value]


def test_errors_retries_and_answers_in_turn() -> None:
    @stage(writes="rows", retry=Retry(3, on=PortError))
    def load(*, dataset_store: DatasetStore) -> Any:
        return dataset_store.load_dataset("rows", split="train")

    store = FakePort(
        "dataset_store", load_dataset=InTurn(PortError("busy"), PortError("busy"), [1])
    )
    assert run_stage(load, adapters={"dataset_store": store})["rows"] == [1]
    assert [call.method for call in store.calls] == ["load_dataset"] * 3
    assert store.called("load_dataset")[0]["name"] == "rows"
    with pytest.raises(StageError, match="load_dataset was called once more than it has answers"):
        run_stage(load, adapters={"dataset_store": store})


def test_answers_are_values_functions_errors_and_futures() -> None:
    client = FakePort(
        TrainingClient,
        optim_step=lambda session, params: AdamParams(learning_rate=params),
        forward_backward=RuntimeError("no"),
        save_checkpoint=Future.resolved("path"),
    )
    assert client.optim_step("s", 0.5).result().learning_rate == 0.5  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="no"):
        client.forward_backward("s", []).result()  # type: ignore[attr-defined]
    assert client.save_checkpoint("s", "p").result() == "path"  # type: ignore[attr-defined]
    with pytest.raises(PortError, match=r"write FakePort\(TrainingClient, start_session=...\)"):
        client.start_session({})  # type: ignore[attr-defined]
    assert repr(client) == "<FakeTrainingClient: 4 call(s)>"


@pytest.mark.parametrize("name", PORTS)
def test_every_port_has_a_fake(name: str) -> None:
    fake = FakePort(name)
    assert isinstance(fake, PORTS[name])
    assert fake.concurrent is PORTS[name].concurrent
    fake.close()
    assert fake.called("close") == [{}]
    assert FakePort(name, concurrent=True).concurrent is True


def test_what_the_port_itself_can_do_it_does() -> None:
    answer = type("Drawn", (), {"tokens": [1, 2], "logprobs": [-0.5, -1.0]})()
    client: Any = FakePort(SamplingClient, sample=[answer])
    assert [token.token for token in client.sample_stream("s", [1], {})] == [1, 2]
    assert [call.method for call in client.calls] == ["sample_stream", "sample"]


def test_mistakes_in_a_fake_are_told() -> None:
    with pytest.raises(TypeError, match=r"no method 'optim_stp'; did you mean 'optim_step'\?"):
        FakePort(TrainingClient, optim_stp=1)
    with pytest.raises(
        TypeError, match="port must be a port, got 'training'; known: training_client"
    ):
        FakePort("training")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        FakePort(TrainingClient, optim_step=1).optim_step("s", 1, learning=1)  # type: ignore[attr-defined]
