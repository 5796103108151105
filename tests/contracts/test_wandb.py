"""W&B offline keeps the port's contract, and its files say the same to another store."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible_kitchen.adapters.wandb import MetricsStore
from crucible_kitchen.adapters.wandb.run_file import records
from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import MetricsStoreContract

wandb = pytest.importorskip("wandb", reason="pip install 'crucible-kitchen[wandb]'")


def _offline(folder: Path) -> MetricsStore:
    return MetricsStore(mode="offline", dir=str(folder))


@pytest.fixture(autouse=True, scope="module")
def _one_service() -> Iterator[None]:
    yield
    wandb.teardown()


class TestMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[MetricsStore]:
        store = _offline(tmp_path)
        yield store
        store.close()


def test_another_store_reads_the_files_and_goes_on(tmp_path: Path) -> None:
    first = _offline(tmp_path)
    first.record("sft 1/of:2", "loss", 2.5, step=3, metadata={"split": "train"})
    first.record("sft 1/of:2", "loss", float("nan"), step=1)
    first.record("other", "loss", 7.0)
    first.close()
    # The files are whole when W&B's own process has ended.
    wandb.teardown()
    second = _offline(tmp_path)
    nan, point = second.get_history("sft 1/of:2", "loss")
    assert (point.value, point.step, point.metadata) == (2.5, 3, {"split": "train"})
    assert nan.value != nan.value
    assert point.time is not None
    second.record("sft 1/of:2", "loss", 1.5, step=4)
    assert [p.step for p in second.read("sft 1/of:2")] == [3, 1, 4]
    second.close()


def test_a_run_that_another_store_has_open_is_told(tmp_path: Path) -> None:
    first, second = _offline(tmp_path), _offline(tmp_path)
    first.record("shared", "loss", 1.0, step=1)
    with pytest.raises(PortError, match=r"could not record loss of run shared: .*in use"):
        second.record("shared", "loss", 2.0, step=2)
    first.close()
    second.record("shared", "loss", 2.0, step=2)
    second.close()
    assert [p.step for p in second.read("shared")] == [1, 2]


def test_no_server_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb.setup().settings, "base_url", "http://127.0.0.1:9")
    store = MetricsStore(mode="online", dir=str(tmp_path))
    began = time.monotonic()
    with pytest.raises(PortError, match=r"could not record loss of run r: .*refused"):
        store.record("r", "loss", 1.0)
    assert time.monotonic() - began < 5


def _fragment(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", 0, len(data), kind) + data


def test_records_cross_blocks_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    long = bytes(range(256)) * 200
    # After the file's header, a record and a fragment, 6 bytes of the block are left: too few for
    # another fragment's header, so they are filled with zeros.
    first = 32768 - 7 - 6 - len(_fragment(1, b"short")) - 7
    data = (
        b":W&B\xe1\xbe\x00"
        + _fragment(1, b"short")
        + _fragment(2, long[:first])
        + bytes(6)
        + _fragment(4, long[first:])
        + _fragment(1, b"whole")
    )
    file = tmp_path / "run-x.wandb"
    file.write_bytes(data)
    assert list(records(file)) == [b"short", long, b"whole"]
    file.write_bytes(data[:-2])
    assert list(records(file)) == [b"short", long]
