"""Every row once an epoch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.data import BatchOrder, normalise_weights
from crucible_kitchen.errors import DataError
from crucible_kitchen.types import Datum


@given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**64 - 1), st.booleans())
def test_every_row_comes_once_and_no_batch_is_too_large(n, batch_size, seed, grouped):
    lengths = [(7 * i) % 13 for i in range(n)] if grouped else None
    order = BatchOrder(n, batch_size, seed, lengths=lengths)
    batches = order.epoch(3)
    assert sorted(index for batch in batches for index in batch) == list(range(n))
    assert len(batches) == len(order)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_the_order_is_pinned():
    # A change here changes every run that anyone recorded.
    assert BatchOrder(8, 3, seed=1).epoch(0) == [[3, 5, 2], [7, 0, 6], [1, 4]]


def test_epochs_and_seeds_differ_and_repeat():
    orders = {(s, e): str(BatchOrder(50, 4, s).epoch(e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert str(BatchOrder(50, 4, 2).epoch(2)) == orders[2, 2]


def test_iterating_gives_one_epoch_after_another():
    order = BatchOrder(10, 4, seed=5)
    assert [list(order), list(order)] == [order.epoch(0), order.epoch(1)]


def test_without_shuffling_rows_keep_their_order():
    order = BatchOrder(5, 2, shuffle=False)
    assert list(order) == list(order) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 7])
def test_it_goes_on_from_a_saved_state(taken):
    def endless(order):
        while True:
            yield from order

    order = BatchOrder(10, 3, seed=5)
    batches = endless(order)
    for _ in range(taken):
        next(batches)
    state = json.loads(json.dumps(order.state_dict()))
    resumed = BatchOrder(10, 3, seed=5)
    resumed.load_state_dict(state)
    rest = endless(resumed)
    assert [next(rest) for _ in range(9)] == [next(batches) for _ in range(9)]


def test_a_state_of_another_order_is_refused():
    with pytest.raises(DataError, match=r"batch order: state must be of .*'n': 10"):
        BatchOrder(10, 3).load_state_dict(BatchOrder(11, 3).state_dict())


def test_grouped_batches_hold_rows_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)

    def spread(order):
        return np.mean([np.ptp(lengths[batch]) for batch in order.epoch(0)])

    grouped = BatchOrder(1000, 8, lengths=lengths)
    assert spread(grouped) < spread(BatchOrder(1000, 8)) / 10
    heads = [lengths[batch[0]] for batch in grouped.epoch(0)]
    assert heads != sorted(heads, reverse=True), "batches come from long to short"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "n must be at least 1, got 0"),
        ((1, 0), "batch_size must be at least 1"),
        ((1, 1, -1), "seed must be at least 0"),
        ((1, 1, 2**64), "seed must be below"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchOrder(*arguments)
    with pytest.raises(ValueError, match="lengths must have n = 3 entries, got 2"):
        BatchOrder(3, 1, lengths=[1, 2])


def datum(weights):
    inputs = {"target_tokens": [1] * len(weights), "weights": weights}
    return Datum([1] * len(weights), inputs)


def test_normalised_weights_sum_to_one_over_the_whole_batch():
    datums = normalise_weights([datum([0, 1, 1]), datum([2, 0]), datum([0])])
    weights = [d.loss_fn_inputs["weights"].tolist() for d in datums]
    assert weights == [[0, 0.25, 0.25], [0.5, 0], [0]]
    assert datums[0].loss_fn_inputs["target_tokens"].tolist() == [1, 1, 1]


def test_weights_that_sum_to_nothing_are_refused():
    with pytest.raises(DataError, match="above 0, got 0"):
        normalise_weights([datum([0, 0])])
