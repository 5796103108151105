"""The example of an adapter runs as a user runs it, and keeps its port's contract."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.errors import PortError
from crucible_kitchen.testing import MetricsStoreContract

FILE = Path(__file__).resolve().parents[2] / "examples" / "custom_adapter.py"


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("custom_adapter", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestSqliteMetrics(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Any]:
        store = _example().SqliteMetrics(tmp_path / "metrics.sqlite")
        yield store
        store.close()


def test_it_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FILE)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    shown = dict(pair.split(":") for pair in done.stdout.split()[-3:])
    assert list(shown) == ["18", "19", "20"]
    assert sorted(map(float, shown.values()), reverse=True) == list(map(float, shown.values()))


def test_a_database_that_refuses_is_a_port_error(tmp_path: Path) -> None:
    store = _example().SqliteMetrics(tmp_path / "metrics.sqlite")
    store.close()
    with pytest.raises(PortError, match="the database refused"):
        store.record("r", "loss", 1.0)
