"""The programs that engines are compared by give the right number on each that is installed."""

from __future__ import annotations

import importlib.util
import json
import re
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
    for name in list(sys.modules):
        if name.partition(".")[0] in ("engine_programs", "engine_table"):
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


@pytest.fixture
def ours_alone(engines: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """What is measured of ours, by a clock that goes on by a millisecond each time it is asked."""
    monkeypatch.setattr(engines, "PEERS", ())
    clock = iter(range(10_000)).__next__
    parts = (
        engines.overhead(3, 2, lambda: clock() * 1e-3),
        engines.records(3, 2, lambda: clock() * 1e-3),
        engines.makespans(1),
        engines.imports(1),
    )
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        for name, figures in part.items():
            found.setdefault(name, {}).update(figures)
    return found


def test_every_figure_of_ours_is_found_and_shown(
    engines: Any, ours_alone: dict[str, dict[str, float]]
) -> None:
    ours = ours_alone[engines.OURS.name]
    assert ours["chain"] == ours["loop"] == pytest.approx(1e-3 / 3 * 1e6)
    assert ours["chain ratio"] == ours["record ratio"] == 1.0
    assert ours["bytes"] > 10
    assert ours["makespan"] > 0.9
    assert ours["import"] > 1
    head, first, second = engines.lines("engine", ours_alone, ("record", "bytes"))
    assert "a record of the journal, us" in head
    assert first.startswith("crucible-kitchen") and "(  1.0)" in first  # noqa: PT018
    assert second.startswith("  with fsync")


def test_all_of_it_is_saved_beside_the_targets(
    engines: Any,
    ours_alone: dict[str, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = {"what": "a stage", "unit": "us", "bound": 2.5, "beside": "loop", "least": False}
    figures = [{**figure, "figure": 1.25, "met": True}, {**figure, "figure": 3, "met": False}]
    trial = sys.modules["engine_table"].TRIALS[0]._asdict()
    monkeypatch.setattr(engines, "own_figures", lambda: figures)
    monkeypatch.setattr(engines, "tried", lambda: [{**trial, "cases": 3, "passed": 2}])
    other = {"loop": 20.0, "loop ratio": 16.0}
    monkeypatch.setattr(engines, "PEERS", (engines.hamilton.ENGINE,))
    found = {**ours_alone, "Hamilton": other}
    path = engines.save(tmp_path, found, 3, 2)
    saved = json.loads(path.read_text())
    assert saved["figures"] == figures
    assert saved["peers"]["Hamilton"] == other
    text = path.with_suffix(".md").read_text()
    assert "| a stage | <= 2.5 us | 1.25 us | pass | 20.0 us |" in text
    assert "| a stage | <= 2.5 us | 3.00 us | MISS | 20.0 us |" in text
    assert "| 2 of 3 | MISS |" in text
    assert "20.0 us (16.0)" in text
    (folder,) = tmp_path.iterdir()
    for link in re.findall(r"\]\(\.\./\.\./\.\./(.*?)\)", text):
        assert (FILE.parents[2] / link).is_file()
    assert path.parent == folder


def test_a_trial_counts_its_cases(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "tests/engine/test_kill_at.py"
    trial = sys.modules["engine_table"].Trial(
        "refuses", "1", f"{file}::test_it_refuses_another_moment"
    )
    monkeypatch.setattr(sys.modules["engine_table"], "TRIALS", (trial,))
    (found,) = engines.tried()
    assert (found["cases"], found["passed"]) == (1, 1)


def test_every_trial_is_a_test_of_the_project(engines: Any) -> None:
    for trial in sys.modules["engine_table"].TRIALS:
        file, name = trial.test.split("::")
        assert f"def {name}(" in (FILE.parents[2] / file).read_text()
