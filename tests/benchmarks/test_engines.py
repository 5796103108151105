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
    sys.path.insert(0, str(FILE.parent))  # as for a script
    spec = importlib.util.spec_from_file_location("engines", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engines"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FILE.parent))
    for name in [name for name in sys.modules if name.partition(".")[0] == "engine_programs"]:
        del sys.modules[name]
    del sys.modules["engines"]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ["chain", "loop", "journal", "chains"])
def test_it_gives_the_right_number(engines: Any, number: int, kind: str, tmp_path: Path) -> None:
    engine = (engines.OURS, engines.ON_DISK, *engines.PEERS)[number]
    if engine.version is None:
        pytest.skip(f"{engine.package} is not installed; it is in the extra `peers`")
    make = getattr(engine, kind)
    if make is None:
        pytest.skip(f"{engine.name} has no {kind}")
    given = {"chain": (7,), "loop": (7,), "journal": (7, tmp_path), "chains": ()}[kind]
    wanted = 12 if kind == "chains" else 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what others warn of is theirs
        prepare = make(*given)
        assert [prepare()(), prepare()()] == [wanted, wanted]
    if kind == "journal":
        assert len(list(tmp_path.iterdir())) == 2


def test_a_wrong_number_is_not_timed(engines: Any) -> None:
    with pytest.raises(AssertionError, match="wrong must give 3, got 4"):
        engines.measure({"wrong": lambda: lambda: 4}, 3, 1)


def test_rounds_are_taken_in_turn(engines: Any) -> None:
    order: list[str] = []

    def program(name: str) -> Any:
        def run() -> int:
            order.append(name)
            return 3

        return lambda: run

    taken = engines.measure({"a": program("a"), "b": program("b")}, 3, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(times) for name, times in taken.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_of_the_same_round(engines: Any) -> None:
    assert engines.ratio([2.0, 40.0, 3.0], [1.0, 20.0, 1.0]) == 2.0


def test_ours_alone_fills_its_lines(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PEERS", ())
    clock = iter(range(10_000)).__next__
    lines = [
        *engines.overhead(3, 2, lambda: clock() * 1e-3),
        *engines.records(3, 2, lambda: clock() * 1e-3),
        *engines.makespans(1),
    ]
    ours = [line for line in lines if line.startswith(("crucible-kitchen", "  with fsync"))]
    assert len(ours) == 4
    assert float(ours[-1].split()[-1]) > 0.9
