"""A whole training run as a workflow of one's own: epochs and batches, evaluation, checkpoints, a
registered model, and a session that is closed whatever happens. On adapters that need nothing."""

import sys
from typing import NamedTuple

import crucible_kitchen as ck
from crucible_kitchen.context import Metrics
from crucible_kitchen.ports import DatasetStore, ModelRegistry, Session, TrainingClient


class Data(NamedTuple):
    train_rows: list
    held_out_rows: list


@ck.stage
def load_data(dataset: str, *, dataset_store: DatasetStore) -> Data:
    splits = (dataset_store.load_dataset(dataset, split=name) for name in ("train", "validation"))
    return Data(*(dataset_store.to_list(split) for split in splits))


class Started(NamedTuple):
    session: Session
    global_step: int


@ck.stage
def init_session(model: str, *, training_client: TrainingClient) -> Started:
    return Started(training_client.start_session({"model": model}), 0)


def to_datum(row: dict, session: Session, training_client: TrainingClient) -> dict:
    encode = training_client.get_tokenizer(session).encode
    asked = encode(row["prompt"][0]["content"])
    said = encode(row["completion"][0]["content"])
    labels = [-100] * len(asked) + list(said)
    return {"model_input": [*asked, *said], "loss_fn_inputs": {"labels": labels}}


class Step(NamedTuple):
    loss: float
    global_step: int


@ck.stage(retry=3)
def train_step(
    rows: list,
    session: Session,
    learning_rate: float,
    global_step: int,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> Step:
    datums = [to_datum(row, session, training_client) for row in rows]
    loss = training_client.forward_backward(session, datums).result().loss
    training_client.optim_step(session, learning_rate).result()
    metrics.record("loss", loss, step=global_step + 1)
    return Step(loss, global_step + 1)


@ck.stage(writes="eval_loss")
def evaluate(
    rows: list,
    session: Session,
    global_step: int,
    *,
    training_client: TrainingClient,
    metrics: Metrics,
) -> float:
    datums = [to_datum(row, session, training_client) for row in rows]
    loss = training_client.forward(session, datums).result().loss
    metrics.record("eval_loss", loss, step=global_step)
    return loss


@ck.stage(writes="weights")
def save(session: Session, global_step: int, *, training_client: TrainingClient) -> str:
    return training_client.save_checkpoint(session, f"step_{global_step:04d}").result()


@ck.stage
def register(model: str, weights: str, eval_loss: float, *, model_registry: ModelRegistry) -> None:
    model_registry.register(model, "1", weights, metrics={"eval_loss": eval_loss})


@ck.stage
def report_failure(error: Exception, stage: str) -> None:
    print(f"{stage} failed: {error}", file=sys.stderr)


@ck.stage
def close(session: Session | None = None, *, training_client: TrainingClient) -> None:
    if session is not None:
        training_client.close_session(session)


class FullTraining(ck.Workflow):
    body = (
        load_data,
        init_session,
        evaluate.bind(rows="held_out_rows").with_(name="evaluate_before"),
        ck.loop("epochs", over="epochs_range")[
            ck.stream_loop("batches", over="shuffled_batches", prefetch=2)[
                train_step.bind(rows="batches.item"),
                ck.when("should_checkpoint")[save.with_(name="checkpoint")],
            ],
            evaluate.bind(rows="held_out_rows"),
        ],
        save,
        register,
    )
    on_error = (report_failure.bind(error="on_error.error", stage="on_error.stage"),)
    finally_ = (close,)

    def epochs_range(self, epochs: int) -> range:
        return range(epochs)

    def shuffled_batches(self, train_rows: list, batch_size: int, rng: ck.Rng):
        order = rng.permutation(len(train_rows))
        for start in range(0, len(order), batch_size):
            yield [train_rows[i] for i in order[start : start + batch_size]]

    def should_checkpoint(self, global_step: int, save_every: int) -> bool:
        return global_step % save_every == 0


CONFIG = {
    "model": "noop",
    "dataset": "sums",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "save_every": 10,
}
PORTS = ("training_client", "dataset_store", "model_registry")

if __name__ == "__main__":
    result = ck.run(FullTraining, CONFIG, adapters=dict.fromkeys(PORTS, "noop"))
    losses = [record.value for record in result.metrics.history("eval_loss")]
    print(f"{result.context.state.global_step} steps, held-out loss", *(f"{x:.3f}" for x in losses))
