"""The line in which requests stand: order, repetition, and what is kept of results."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen import ports
from crucible_kitchen.serve.state import NotFound
from crucible_kitchen.serve.work import Busy, Later, Work


def test_a_queue_that_is_full_says_so():
    work, gate = Work(2), threading.Event()
    work.do(None, gate.wait)
    work.do(None, gate.wait)
    with pytest.raises(Busy, match="2 requests wait already"):
        work.do(None, gate.wait)
    gate.set()
    work.close()


def test_results_that_were_taken_do_not_pile_up():
    """The newest stay, for a client whose connection broke, and so does what nobody has taken."""
    work = Work(100, kept_bytes=250)
    promises = [work.do_in_order("m", n, lambda: b"x" * 100, quick=True) for n in range(1, 7)]
    untaken, *taken = promises
    for promise in [*taken, taken[-1]]:
        work.sent(promise, 100)
    assert work.get(untaken.id) is untaken
    assert [work.get(one.id) for one in taken[-2:]] == taken[-2:]
    for old in taken[:-2]:
        with pytest.raises(NotFound):
            work.get(old.id)
    again = work.do_in_order("m", 6, pytest.fail)
    assert again is taken[-1]
    work.close()


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(1, 9)))
def test_any_order_of_arrival_is_done_in_the_models_order(order):
    work, done = Work(100), []
    promises = [
        work.do_in_order("m", number, lambda number=number: done.append(number)) for number in order
    ]
    for promise in promises:
        promise.future.result(timeout=10)
    work.close()
    assert done == list(range(1, 9))


def test_quick_work_runs_at_once_unless_something_is_before_it():
    work, gate, here = Work(10), threading.Event(), threading.get_ident
    first = work.do_in_order("m", 1, here, quick=True)
    assert first.future.result(timeout=0) == here()
    work.do(None, gate.wait)
    second = work.do_in_order("m", 2, here, quick=True)
    assert not second.future.done()
    gate.set()
    assert second.future.result(timeout=10) != here()
    work.close()


def test_work_that_another_thread_ends_leaves_the_next_to_begin():
    """And an error of it, or of reading its result, is that promise's own."""
    work, futures = Work(2), [concurrent.futures.Future() for _ in range(3)]
    promises = [
        work.do_in_order("m", 1, lambda: Later(ports.Future.of(futures[0]), str)),
        work.do_in_order("m", 2, lambda: Later(ports.Future.of(futures[1]), int)),
    ]
    with pytest.raises(Busy):
        work.do(None, str)
    futures[1].set_result("no number")
    futures[0].set_result(7)
    assert promises[0].future.result(timeout=10) == "7"
    with pytest.raises(ValueError, match="no number"):
        promises[1].future.result(timeout=10)
    third = work.do_in_order("m", 3, lambda: Later(ports.Future.of(futures[2]), str))
    futures[2].set_exception(RuntimeError("broke"))
    with pytest.raises(RuntimeError, match="broke"):
        third.future.result(timeout=10)
    work.close()
