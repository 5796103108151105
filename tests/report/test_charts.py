"""Charts: axes that enclose their values, and series that stay readable."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.report.charts import chart, nice_ticks, short, thinned
from crucible_kitchen.report.folder import Point

finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(finite, finite)
def test_ticks_enclose_the_range_evenly_and_are_few(one, other) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high, 5)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 12
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_ticks_of_steps_are_whole(one, other) -> None:
    low, high = min(one, other), max(one, other)
    drawn = chart(
        "Loss", "nats", [("l", "s", [Point(low, 1.0, 0), Point(high, 2.0, 0)])], width=9, height=9
    )
    labels = [tick.label for tick in drawn.x_ticks]
    assert labels
    assert all(label.isdigit() and low <= int(label) <= high for label in labels)
    assert len(set(labels)) == len(labels) <= 10


def test_a_long_series_is_thinned_to_means_and_keeps_its_ends() -> None:
    points = [Point(step, float(step % 2), 0.0) for step in range(10_000)]
    thin = thinned(points)
    assert len(thin) <= 260
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert all(0.4 < point.value < 0.6 for point in thin[1:-1])


def test_dots_lie_inside_the_axes_and_say_their_values() -> None:
    drawn = chart(
        "Loss",
        "nats",
        [("training", "train", [Point(s, 5.0 / s, 0.0) for s in range(1, 50)]), ("none", "x", [])],
        width=400,
        height=200,
    )
    assert drawn is not None
    (line,) = drawn.lines
    assert all(drawn.left <= d.x <= drawn.right and 0 < d.y <= drawn.bottom for d in line.dots)
    assert line.dots[0].title == "training, step 1: 5 nats"
    assert line.dots[0].y < line.dots[-1].y, "a smaller value lies lower"
    assert len(re.findall("[ML]", line.path)) == 49


def test_one_point_and_no_point() -> None:
    assert chart("x", "", [("a", "a", [])], width=10, height=10) is None
    one = chart("x", "", [("a", "a", [Point(3, 2.0, 0.0)])], width=100, height=100)
    assert one is not None
    assert one.lines[0].dots[0].x == pytest.approx((one.left + one.right) / 2)


@pytest.mark.parametrize(
    ("value", "text"), [(0.000123456, "0.0001235"), (3.14159, "3.142"), (12345.6, "12,346")]
)
def test_numbers_are_short(value, text) -> None:
    assert short(value) == text
