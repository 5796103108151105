"""Blobs, metrics and models in files: what a crash, a full disk or a second writer must not do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.files import BlobStore, MetricsStore, ModelRegistry
from crucible_kitchen.errors import PortError


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync finds the disk full, after the bytes were already accepted."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_leaves_the_old_blob_and_no_part_of_the_new(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = BlobStore(str(tmp_path))
    store.write("x", b"old")
    request.getfixturevalue("full_disk")
    for path in ("x", "new/y"):
        with pytest.raises(PortError, match=f"could not write {path}: No space left"):
            store.write(path, b"new")
    assert store.read("x") == b"old"
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["x"]


def test_links_do_not_lead_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    store = BlobStore(str(root))
    for path in ("link", "folder/secret"):
        with pytest.raises(PortError, match="must stay inside"):
            store.read(path)
        with pytest.raises(PortError, match="must stay inside"):
            store.write(path, b"x")
    assert (tmp_path / "secret").read_bytes() == b"s"


def test_a_file_in_the_way_of_a_folder_is_a_port_error(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    store.write("a", b"")
    with pytest.raises(PortError, match="could not write a/b"):
        store.write("a/b", b"")


def test_what_another_writer_is_writing_is_not_listed(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    store.write("x", b"")
    (tmp_path / ".0123.partial").write_bytes(b"half")
    assert store.list() == ["x"]


def test_a_metrics_line_is_the_documented_one(tmp_path: Path) -> None:
    store = MetricsStore(str(tmp_path / "run"))
    store.record("r", "loss", float("nan"), step=3, metadata={"lr": float("inf")})
    store.close()
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    fields = json.loads(line, parse_constant=pytest.fail)
    assert fields.pop("time") > 1e9
    assert fields == {
        "run_id": "r",
        "name": "loss",
        "value": "NaN",
        "step": 3,
        "metadata": {"lr": "Infinity"},
    }


@pytest.mark.parametrize("torn", ["{", '{"run_id": "r", "name": "lo', '{"value": 1}' + " " * 9000])
def test_a_torn_last_line_is_ignored_and_then_removed(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsStore(str(path))
    first.record("r", "loss", 1.0)
    first.close()
    with path.open("a") as file:
        file.write(torn)
    again = MetricsStore(str(path))
    assert [point.value for point in again.read("r")] == [1.0]
    again.record("r", "loss", 2.0)
    assert [point.value for point in again.read("r")] == [1.0, 2.0]
    again.close()


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("{" * 5000)
    store = MetricsStore(str(path))
    store.record("r", "loss", 2.0)
    assert [point.value for point in store.read("r")] == [2.0]
    store.close()


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"value": "x"}', '{"value": 1, "nme": "x"}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"run_id": "r", "name": "n", "value": 1}}\n{line}\n')
    with pytest.raises(PortError, match="line 2 is damaged"):
        MetricsStore(str(path)).read("r")


def test_a_write_that_fails_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MetricsStore(str(tmp_path))
    store.record("r", "loss", 1.0)
    write = os.write
    calls: list[int] = []

    def full_after_ten_bytes(descriptor: int, data: bytes) -> int:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:10])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full_after_ten_bytes)
        with pytest.raises(PortError, match="No space left"):
            store.record("r", "loss", 2.0)
    store.record("r", "loss", 3.0)
    assert [point.value for point in store.read("r")] == [1.0, 3.0]
    store.close()


def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    store = MetricsStore(str(tmp_path))
    with pytest.raises(TypeError, match="plain JSON"):
        store.record("r", "loss", 1.0, metadata={"model": object()})
    assert store.read("r") == []


RECORD_MANY = """
import sys
from crucible_kitchen.adapters.files import MetricsStore

path, writer = sys.argv[1:]
store = MetricsStore(path)
for step in range(50):
    store.record("r", f"loss-{writer}", step, step=step, metadata={"pad": "x" * 500})
store.close()
"""


def test_several_processes_lose_and_tear_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECORD_MANY, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(i)]) for i in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    store = MetricsStore(str(tmp_path))
    for i in range(2):
        assert [p.step for p in store.get_history("r", f"loss-{i}")] == list(range(50))


def test_a_folder_that_cannot_be_made_is_a_port_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PortError, match="metrics_store: could not write"):
        MetricsStore(str(tmp_path / "file" / "metrics.jsonl")).record("r", "loss", 1.0)
    with pytest.raises(PortError, match="model_registry: could not register"):
        ModelRegistry(str(tmp_path / "file" / "models")).register("m", "1", "u")


def test_registries_share_a_folder(tmp_path: Path) -> None:
    one, other = ModelRegistry(str(tmp_path)), ModelRegistry(str(tmp_path))
    model = one.register("org/m", "1", "file:///w", metrics={"loss": 0.5})
    assert other.get("org/m:1") == model
    assert model.created_at is not None
    assert model.created_at > 1e9
    with pytest.raises(PortError, match="registered already"):
        other.register("org/m", "1", "file:///w")


def test_a_full_disk_registers_nothing(tmp_path: Path, full_disk: None) -> None:
    registry = ModelRegistry(str(tmp_path))
    with pytest.raises(PortError, match="No space left"):
        registry.register("m", "1", "u")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"id": "m:1"}'])
def test_a_damaged_model_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "m%3A1.json").write_text(text)
    with pytest.raises(PortError, match=r"m%3A1\.json is damaged"):
        ModelRegistry(str(tmp_path)).get("m:1")


def test_what_a_registry_cannot_write_it_refuses(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"model": object()}
    with pytest.raises(TypeError, match="plain JSON"):
        ModelRegistry(str(tmp_path)).register("m", "1", "u", metadata=metadata)
    assert ModelRegistry(str(tmp_path)).list() == []


def test_a_rewound_file_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    store = MetricsStore(str(path))
    for step in range(3):
        store.record("a", "loss", 1.0 / (step + 1), step=step)
        store.record("b", "loss", 5.0, step=step)
    kept = path.read_bytes().splitlines(keepends=True)
    points = store.read("a")
    store.record("a", "loss", 0.1, step=3)
    store.rewind("a", points[:2])
    # What was there stays as it was, times included; of the other run nothing is lost.
    assert path.read_bytes() == b"".join(line for n, line in enumerate(kept) if n != 4)
    store.rewind("a", [])
    assert store.read("a") == []
    assert len(store.read("b")) == 3
