"""An adapter of one's own: metrics in SQLite, behind a workflow that knows only the port."""

import json
import sqlite3
import threading
import time

import crucible_kitchen as ck
from crucible_kitchen import ports
from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.compose import retrying
from crucible_kitchen.context import Metrics
from crucible_kitchen.errors import PortError
from crucible_kitchen.types import MetricPoint

TABLE = "create table if not exists points (run, name, value, step, time, metadata)"


class SqliteMetrics(ports.MetricsStore):
    """Keeps metrics in a SQLite file; `get_history` comes with the port."""

    def __init__(self, path):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._query(TABLE)

    def record(self, run, name, value, step=None, metadata=None):
        p = ports.metric_point(run, name, value, step, metadata, time.time())
        # SQLite has no NaN, so a value is kept as text.
        row = (p.run_id, p.name, repr(p.value), p.step, p.time, json.dumps(p.metadata))
        self._query("insert into points values (?, ?, ?, ?, ?, ?)", row)

    def flush(self, run):
        ports.run_id_of(run)

    def read(self, run):
        rows = self._query(
            "select * from points where run = ? order by rowid", [ports.run_id_of(run)]
        )
        return [MetricPoint(r, n, float(v), s, t, json.loads(m)) for r, n, v, s, t, m in rows]

    def close(self):
        self._database.close()

    def _query(self, text, values=()):
        try:
            with self._lock, self._database:
                return self._database.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise PortError(f"metrics_store: the database refused: {error}") from error


@ck.stage(writes="session")
def start(model: str, *, training_client: ports.TrainingClient) -> ports.Session:
    return training_client.start_session({"model": model})


@ck.stage
def learn(
    session: ports.Session, tokens: list, *, training_client: ports.TrainingClient, metrics: Metrics
) -> None:
    datum = {"model_input": tokens, "loss_fn_inputs": {"labels": tokens}}
    loss = training_client.forward_backward(session, [datum]).result().loss
    step = training_client.optim_step(session, 1e-3).result().step
    metrics.record("loss", loss, step=step)


if __name__ == "__main__":
    store = SqliteMetrics("metrics.sqlite")
    teach = ck.workflow("teach")[start, ck.loop("steps", over=range(20))[learn]]
    adapters = {"training_client": noop.TrainingClient, "metrics_store": retrying(store)}
    result = ck.run(teach, {"model": "none", "tokens": [7, 8, 9]}, adapters=adapters)
    history = store.get_history(result.context, "loss", step_min=18)
    print(*(f"{point.step}:{point.value:.3f}" for point in history))
    store.close()
