"""Metrics as event files keep the port's contract, and TensorBoard's own reader sees them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible_kitchen.adapters.tensorboard import MetricsStore
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import MetricsStoreContract

accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="pip install 'crucible-kitchen[tensorboard]'",
)


class TestMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[MetricsStore]:
        store = MetricsStore(str(tmp_path / "logs"))
        yield store
        store.close()


def test_tensorboard_draws_what_was_recorded(tmp_path: Path) -> None:
    store = MetricsStore(str(tmp_path))
    for step in range(5):
        store.record("run-1", "loss", 2.0 - step / 10, step=step)
    store.record("run-1", "final", 0.5, metadata={"split": "test"})
    store.close()
    seen = accumulators.EventAccumulator(str(tmp_path / "run-1")).Reload()
    assert sorted(seen.Tags()["scalars"]) == ["final", "loss"]
    drawn = [(event.step, event.value) for event in seen.Scalars("loss")]
    assert drawn == [(step, pytest.approx(2.0 - step / 10)) for step in range(5)]


def test_values_come_back_exactly_and_by_another_store(tmp_path: Path) -> None:
    first = MetricsStore(str(tmp_path))
    first.record("a/../b", "loss", math.pi, step=1)
    first.close()
    first.record("a/../b", "loss", 1e300, step=2)
    first.close()
    points = MetricsStore(str(tmp_path)).read("a/../b")
    assert [point.value for point in points] == [math.pi, 1e300]
    assert all(point.time and point.time > 1e9 for point in points)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_torn_last_event_is_passed_over(tmp_path: Path) -> None:
    store = MetricsStore(str(tmp_path))
    store.record("r", "loss", 1.0)
    store.record("r", "loss", 2.0)
    store.close()
    (file,) = (tmp_path / "r").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert [point.value for point in store.read("r")] == [1.0]


def test_scalars_of_somebody_else_are_read(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "r"))
    summary = Summary(value=[Summary.Value(tag="loss", simple_value=0.5)])
    writer.add_event(Event(step=3, wall_time=7.0, summary=summary))
    writer.close()
    (point,) = MetricsStore(str(tmp_path)).read("r")
    assert (point.name, point.value, point.step, point.time) == ("loss", 0.5, 3, 7.0)


def test_a_folder_that_cannot_be_made_is_a_port_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PortError, match="could not write"):
        MetricsStore(str(tmp_path / "file")).record("r", "loss", 1.0)


def test_two_writers_of_a_run_lose_nothing(tmp_path: Path) -> None:
    stores = [MetricsStore(str(tmp_path)) for _ in range(2)]
    for step in range(6):
        stores[step % 2].record("r", "loss", float(step), step=step)
    for store in stores:
        store.close()
    history = MetricsStore(str(tmp_path)).get_history("r", "loss")
    assert [point.value for point in history] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
