"""The table of the engine's targets: figures, tests, and what others take, as Markdown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = 1000
"""Random programs that are run at every concurrency."""

PROGRAMS_OF: Final = {
    "chain": ("a stage of a chain", "us"),
    "loop": ("a stage in a loop", "us"),
    "record": ("a record of the journal", "us"),
    "bytes": ("the record", "B"),
    "chains": ("three chains at once", "ms"),
    "makespan": ("over the longest", "x"),
    "import": ("import", "ms"),
}
"""What `engines.py` measures: how the table calls it, and the unit."""

Found = dict[str, dict[str, float]]
"""Figures by the name of an engine and of the figure."""


class Trial(NamedTuple):
    """A target that a test shows.

    Args:
        what: is tried.
        wanted: of it.
        test: as pytest names it, with all its cases.
    """

    what: str
    wanted: str
    test: str


TRIALS: Final = (
    Trial(
        f"{PROGRAMS} random programs, each at four widths",
        "0 differences from one after the other",
        "tests/engine/test_same_result.py::test_any_concurrency_gives_the_same_result",
    ),
    Trial(
        "26 seeded defects, found before the run",
        "all in one report",
        "tests/graph/test_all_at_once.py::test_all_defects_in_one_report",
    ),
    Trial(
        "kill -9 at random moments of 40 random programs",
        "the resumed run is bit-identical, nothing is repeated",
        "tests/engine/test_same_result.py::test_killed_anywhere_it_goes_on_as_if_nothing_had_been",
    ),
    Trial(
        "error, timeout, SIGINT, SIGTERM, crash x sync, async, thread, process, parallel, loop",
        "30 of 30 end well",
        "tests/engine/test_grid.py::test_a_run_ends_well",
    ),
    Trial(
        "changes that matter to a cached stage",
        "0 stale",
        "tests/engine/test_cache.py::test_what_matters_makes_it_run_again",
    ),
    Trial(
        "cosmetic edits",
        "all keep the cache",
        "tests/engine/test_cache.py::test_what_does_not_matter_keeps_it",
    ),
)


def own_figures() -> list[dict[str, Any]]:
    """What ``engine.py`` measures, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        _pytest(["-s", "benchmarks/engine.py"], {"CRUCIBLE_FIGURES": str(path)})
        figures: list[dict[str, Any]] = json.loads(path.read_text())
    return figures


def tried() -> list[dict[str, Any]]:
    """How many cases of each trial there are, and how many pass."""
    found = []
    for trial in TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            _pytest([trial.test, f"--junitxml={report}"], {"CRUCIBLE_PROGRAMS": str(PROGRAMS)})
            (suite,) = ElementTree.parse(report).getroot()
        cases = int(suite.get("tests", "0"))
        failed = sum(int(suite.get(kind, "0")) for kind in ("errors", "failures", "skipped"))
        found.append({**trial._asdict(), "cases": cases, "passed": cases - failed})
    return found


def _pytest(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run pytest from the repository; a test that fails is what its report says."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)


def markdown(saved: Mapping[str, Any]) -> str:
    """The tables of what `engines.py` has saved."""
    return "\n".join(_lines(saved)) + "\n"


def _lines(saved: Mapping[str, Any]) -> Iterator[str]:
    where, peers, versions = saved["machine"], saved["peers"], saved["versions"]
    _, *others = versions  # ours is the first
    yield "# The engine and its targets"
    yield ""
    yield f"{where['device']}, Python {where['python']}, {where['date']}; of one run of"
    yield "`python benchmarks/peers/engines.py --save benchmarks/results`, which writes this file."
    yield ""
    yield from _table(
        ("what", "target", "measured", "", *others),
        (
            (
                one["what"],
                f"{'>=' if one['least'] else '<='} {one['bound']:g} {one['unit']}",
                _cell(one["figure"], one["unit"]),
                "pass" if one["met"] else "MISS",
                *(_beside(peers[name], one) for name in others),
            )
            for one in saved["figures"]
        ),
    )
    yield ""
    yield "What others take is the program below that is nearest; one without loops, its chain."
    yield ""
    yield from _table(
        ("shown by a test", "target", "cases that pass", ""),
        (
            (
                f"[{one['what']}](../../../{one['test'].partition('::')[0]})",
                one["wanted"],
                f"{one['passed']} of {one['cases']}",
                "pass" if one["passed"] == one["cases"] > 0 else "MISS",
            )
            for one in saved["trials"]
        ),
    )
    yield ""
    yield "## The same programs, in one process"
    yield ""
    yield f"{saved['stages']} stages that add one; medians of {saved['rounds']} rounds in turn."
    yield "In brackets how many times ours that is, in the same round."
    yield ""
    yield from _table(
        ("engine", *(f"{what}, {unit}" for what, unit in PROGRAMS_OF.values())),
        (
            (
                f"{name} {versions.get(name, '')}".strip(),
                *(_measured(found, figure, unit) for figure, (_, unit) in PROGRAMS_OF.items()),
            )
            for name, found in peers.items()
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _beside(found: Mapping[str, float], one: Mapping[str, Any]) -> str:
    """What another engine takes for what a figure is of."""
    nearest = "chain" if one["beside"] == "loop" and "loop" not in found else one["beside"]
    return _cell(found.get(nearest), one["unit"])


def _measured(found: Mapping[str, float], figure: str, unit: str) -> str:
    times = found.get(f"{figure} ratio")
    return _cell(found.get(figure), unit) + (f" ({times:.1f})" if times is not None else "")


def _cell(figure: float | None, unit: str) -> str:
    """A figure to three digits; empty where there is none."""
    if figure is None:
        return ""
    digits = 2 if figure < 10 else (1 if figure < 100 else 0)
    return f"{figure:.{digits}f} {unit}".strip()
