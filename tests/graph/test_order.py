"""Order, longest chain and width of a body, against definitions that are too slow to use."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.graph import stage, workflow
from crucible_kitchen.graph.order import Edge, edges, longest, widest


@st.composite
def orders(draw: st.DrawFn) -> tuple[int, list[Edge]]:
    size = draw(st.integers(0, 6))
    pairs = [(one, other) for other in range(size) for one in range(other)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return size, [Edge(one, other, (), ()) for one, other in chosen]


def comes_before(size: int, order: list[Edge]) -> set[tuple[int, int]]:
    reached = {(edge.before, edge.after) for edge in order}
    for middle in range(size):
        into = [one for one, other in reached if other == middle]
        out = [other for one, other in reached if one == middle]
        reached |= {(one, other) for one in into for other in out}
    return reached


@given(orders(), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_widest_is_the_largest_set_without_an_order(made, widths) -> None:
    size, order = made
    reached = comes_before(size, order)
    sets = (c for count in range(size + 1) for c in combinations(range(size), count))
    best = max(
        sum(widths[one] for one in some)
        for some in sets
        if not any(pair in reached for pair in combinations(some, 2))
    )
    assert widest(widths[:size], order) == best


@given(orders(), st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_longest_is_the_heaviest_chain(made, weights) -> None:
    size, order = made
    reached = comes_before(size, order)
    chains = (
        some
        for count in range(size + 1)
        for some in combinations(range(size), count)
        if all(pair in reached for pair in combinations(some, 2))
    )
    length, chain = longest(weights[:size], order)
    assert length == max(sum(weights[one] for one in some) for some in chains)
    assert length == sum(weights[one] for one in chain)
    assert all(pair in reached for pair in combinations(chain, 2))


def test_long_bodies_are_quick_and_deep_chains_no_problem() -> None:
    chain = [Edge(place, place + 1, (), ()) for place in range(1999)]
    assert widest([1] * 2000, chain) == 1
    assert longest([1] * 2000, chain)[0] == 2000
    # Every node of the first half may lead to any of the second: matchings must be changed.
    both = [Edge(one, 60 + other, (), ()) for one in range(60) for other in range(60 - one)]
    assert widest([1] * 120, both) == 60


@stage(writes="a")
def one() -> int:
    return 1


@stage(writes="b")
def two(a: int) -> int:
    return a


def test_edges_say_why() -> None:
    body = workflow("w")[one, two, one.with_(name="again")].body
    assert [(edge.before, edge.after, edge.why, edge.keys) for edge in edges(body)] == [
        (0, 1, ("read-after-write",), ("a",)),
        (0, 2, ("write-after-write",), ("a",)),
        (1, 2, ("write-after-read",), ("a",)),
    ]
