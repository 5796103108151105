"""Mixtures: rows in proportion to the weights, none left out, spread evenly."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.data import mix
from crucible_kitchen.errors import DataError


def test_without_weights_every_row_comes_once_spread_over_the_epoch() -> None:
    rows = mix([4, 2], [None, None], 0)
    assert sorted(rows) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert [part for part, _ in rows] == [0, 1, 0, 0, 1, 0]
    assert [row for part, row in rows if part == 0] == [0, 1, 2, 3]


@given(
    st.lists(
        st.tuples(st.integers(10, 40), st.sampled_from([0.5, 1.0, 2.0, 3.0])),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_weights_are_shares_and_no_row_is_left_out(parts, seed) -> None:
    counts, weights = [n for n, _ in parts], [w for _, w in parts]
    rows = mix(counts, weights, seed)
    times = Counter(rows)
    for part, count in enumerate(counts):
        own = [times[part, row] for row in range(count)]
        assert min(own) >= 1
        assert max(own) - min(own) <= 1
        share = sum(own) / len(rows)
        assert share == pytest.approx(weights[part] / sum(weights), abs=2 / len(rows))


def test_which_rows_come_again_depends_on_the_seed_alone() -> None:
    again = {str(mix([10, 25], [1.0, 1.0], seed)) for seed in (1, 1, 2)}
    assert len(again) == 2


def test_the_first_half_has_half_of_each() -> None:
    rows = mix([10, 90], [1.0, 1.0], 0)
    first = Counter(part for part, _ in rows[: len(rows) // 2])
    assert abs(first[0] - first[1]) <= 1


def test_weights_of_some_only_are_refused() -> None:
    with pytest.raises(DataError, match="every data set or none must have a weight"):
        mix([1, 2], [1.0, None], 0)


def test_a_weight_that_repeats_a_row_without_end_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 row\(s\) of data set 1 would come 1000 times"):
        mix([1000, 1], [1.0, 1.0], 0)
