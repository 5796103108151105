"""The benchmark of a step beside other work: it runs, and its table says what was taken."""

from __future__ import annotations

from crucible_kitchen.benchmarks.busy import Row, Shape, lines, run


def test_a_step_is_timed_alone_and_beside_busy_processes() -> None:
    small = Shape(layers=1, tokens=16, hidden=64, vocabulary=128)
    [row] = run(small, threads=1, samples=1, policies=("PASSIVE",))
    assert row.policy == "PASSIVE"
    assert row.alone_s > 0
    assert row.busy_s > 0


def test_the_table_fits_and_compares_with_half_of_each_core() -> None:
    rows = [Row("PASSIVE", 0.5, 1.1), Row("not set", 0.5, 3.0)]
    text = list(lines(rows))
    assert max(map(len, text)) <= 80
    assert text[1].split() == ["PASSIVE", "0.500", "1.100", "1.10x"]
    assert text[2].split()[-1] == "3.00x"
