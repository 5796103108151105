"""Numbers of rows that stay: exact, appended, and safe from what a killed process leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crucible_kitchen.data import RowValues, row_hash
from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.types import Datum


@pytest.fixture
def values(tmp_path, monkeypatch):
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path))
    return RowValues("kind", "model")


def test_what_is_added_is_read_to_the_last_bit_by_the_same_key_only(values) -> None:
    assert values.read() == {}
    values.add({"a": 0.1 + 0.2})
    values.add({"b": -1e-300, "a": 2.0})
    assert RowValues("kind", "model").read() == {"a": 2.0, "b": -1e-300}
    assert RowValues("kind", "other model").read() == {}


def test_a_torn_line_is_skipped_and_swallows_nothing(values) -> None:
    values.add({"a": 1.0})
    with values.path.open("a") as file:
        file.write('["b", 2.')
    values.add({"c": 3.0})
    with values.path.open("a") as file:
        file.write('["d", NaN]\n[1]\n7\n')
    assert values.read() == {"a": 1.0, "c": 3.0}


def test_processes_may_add_at_the_same_time(values) -> None:
    code = (
        "import sys; from crucible_kitchen.data import RowValues\n"
        "for i in range(20): RowValues('kind', 'model').add({f'{sys.argv[1]}{i}': float(i)})"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "xy"]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert len(values.read()) == 40


def test_a_cache_that_cannot_be_written_says_how_to_choose_another(values) -> None:
    values.path.parent.parent.joinpath("kind").write_text("a file where a folder must be")
    with pytest.raises(CrucibleError, match=r"could not write the cache .*CRUCIBLE_CACHE"):
        values.add({"a": 1.0})


def test_rows_are_told_apart_by_all_that_counts() -> None:
    def datum(tokens=(1, 2), targets=(2, 3), weights=(0.0, 1.0)):
        inputs = {"target_tokens": list(targets), "weights": list(weights)}
        return Datum({"chunks": [{"tokens": list(tokens)}]}, inputs)

    assert row_hash(datum()) == row_hash(datum())
    others = [datum(tokens=(1, 3)), datum(targets=(2, 4)), datum(weights=(1.0, 1.0))]
    assert len({row_hash(one) for one in [datum(), *others]}) == 4
