"""The programs that engines are compared by give the right number on each that is installed."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "peers" / "engines.py"


@pytest.fixture(scope="module")
def engines() -> Any:
    spec = importlib.util.spec_from_file_location("engines", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engines"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["engines"]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", ["chain", "loop"])
def test_it_gives_the_right_number(engines: Any, number: int, kind: str) -> None:
    engine = (engines.OURS, *engines.PEERS)[number]
    if not engines._installed(engine.package):
        pytest.skip(f"{engine.package} is not installed; it is in the extra `peers`")
    make = getattr(engine, kind)
    if make is None:
        pytest.skip(f"{engine.name} has no loops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of is theirs
        run = make(7)
        assert [run(), run()] == [7, 7]


def test_a_wrong_number_is_not_timed(engines: Any) -> None:
    with pytest.raises(AssertionError, match="wrong must give 3, got 4"):
        engines.measure({"wrong": lambda: 4}, 3, 1)


def test_rounds_are_taken_in_turn(engines: Any) -> None:
    order: list[str] = []

    def run(name: str) -> int:
        order.append(name)
        return 3

    taken = engines.measure({"a": lambda: run("a"), "b": lambda: run("b")}, 3, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}
