"""Which rows a step works on: packed or not, in any order, each row once an epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.data import ORDERS, StepOrder, best_fit, micro_batches, size_of
from crucible_kitchen.types import Datum

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(sizes, st.integers(1, 50))
def test_packs_hold_every_row_once_and_no_more_than_they_may(lengths, capacity) -> None:
    packs = best_fit(lengths, capacity)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    for pack in packs:
        assert sum(lengths[row] for row in pack) <= capacity or len(pack) == 1


@given(sizes, st.integers(40, 90))
def test_no_two_packs_could_have_been_one(lengths, capacity) -> None:
    loads = sorted(sum(lengths[row] for row in pack) for pack in best_fit(lengths, capacity))
    assert len(loads) < 2 or loads[0] + loads[1] > capacity


def test_the_fullest_pack_that_still_takes_a_row_gets_it() -> None:
    # 6 and 5 open packs of 10; 4 fits both and goes beside 6; 3 and 2 then fill the other.
    assert best_fit([3, 6, 2, 5, 4], 10) == [[1, 4], [3, 0, 2]]


def test_many_rows_are_packed_in_time_and_without_waste() -> None:
    lengths = [1 + (7919 * n) % 500 for n in range(20_000)]
    packs = best_fit(lengths, 2048)
    assert len(packs) <= 1.01 * sum(lengths) / 2048


@given(sizes, st.integers(1, 4), st.integers(0, 2**64 - 1), st.sampled_from(ORDERS), st.data())
def test_an_epoch_has_every_row_once_in_as_many_steps_as_are_told(
    lengths, accumulation, seed, order, data
) -> None:
    pack = None if order == "by_length" else data.draw(st.none() | st.integers(40, 90))
    steps = StepOrder(lengths, 3, accumulation, seed, order, pack)
    for epoch in (0, 1, 5):
        rows = steps.epoch(epoch)
        assert sorted(row for step in rows for row in step) == list(range(len(lengths)))
        assert len(rows) == len(steps)
        for step in rows:
            cut = micro_batches(step, [lengths[row] for row in step], 3, pack)
            assert sorted(row for batch in cut for row in batch) == sorted(step)
            assert len(cut) <= accumulation, "a step is no more batches than it was planned with"
            if pack is not None:
                assert all(sum(lengths[row] for row in batch) <= pack for batch in cut)


def test_orders_depend_on_seed_and_epoch_and_as_given_on_neither() -> None:
    lengths = [1 + n % 7 for n in range(50)]
    for pack in (None, 20):
        shuffled = {
            str(StepOrder(lengths, 4, 1, s, "shuffled", pack).epoch(e))
            for s in range(3)
            for e in range(3)
        }
        assert len(shuffled) == 9
        given = {
            str(StepOrder(lengths, 4, 1, s, "as_given", pack).epoch(e))
            for s in range(3)
            for e in range(3)
        }
        assert len(given) == 1
    assert StepOrder(lengths, 4, 2, 0, "as_given").epoch(0)[1] == list(range(8, 16))


def test_the_packed_order_is_pinned() -> None:
    # A change here changes every run that anyone recorded.
    steps = StepOrder([5, 3, 8, 2, 7, 4, 6, 1], 1, 2, 1, "shuffled", 10)
    assert steps.epoch(0) == PINNED


PINNED = [[4, 1, 6, 5], [2, 3, 0, 7]]


def test_rows_of_like_length_share_a_step() -> None:
    lengths = [n % 25 for n in range(1, 101)]
    spread = [
        max(lengths[r] for r in step) - min(lengths[r] for r in step)
        for step in StepOrder(lengths, 4, 1, 0, "by_length").epoch(0)
    ]
    assert max(spread) <= 1


def test_a_pair_is_as_large_as_both_its_answers() -> None:
    one, other = (Datum([1] * n, {"target_tokens": [1] * n, "weights": [1.0] * n}) for n in (2, 3))
    assert (size_of(one), size_of((one, other))) == (2, 5)


def test_a_pack_must_hold_something() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        best_fit([1], 0)
