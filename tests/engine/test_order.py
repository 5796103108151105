"""Neighbours that run one after the other in any case are one part, which makes nothing slower."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.engine.order import Order


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """What each node waits for, as bit sets, and how long it takes."""
    size = draw(st.integers(1, 9))
    waits = [draw(st.integers(0, (1 << place) - 1)) for place in range(size)]
    waits = [needed & draw(st.integers(0, 511)) for needed in waits]
    return waits, draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))


def ends(waits: Sequence[int], seconds: Sequence[int]) -> list[int]:
    """When each is over, if everything begins as soon as it may."""
    over: list[int] = []
    for needed, took in zip(waits, seconds, strict=True):
        before = [end for place, end in enumerate(over) if needed >> place & 1]
        over.append(took + max(before, default=0))
    return over


@given(groups())
def test_parts_are_all_nodes_and_lose_no_time(group: tuple[list[int], list[int]]) -> None:
    waits, seconds = group
    order = Order(waits, apart=False)
    every = [place for start, end in order.parts for place in range(start, end)]
    assert every == list(range(len(waits)))
    alone = ends(waits, seconds)
    together = ends(order.waits, [sum(seconds[start:end]) for start, end in order.parts])
    assert together == [alone[end - 1] for _, end in order.parts]


def test_chains_are_parts() -> None:
    assert Order((0, 1, 2, 0, 8, 16), apart=False).parts == [(0, 3), (3, 6)]
    assert Order((0, 1, 2, 0, 8, 16), apart=False).waits == [0, 0]
    assert Order((0, 1, 2), apart=True).parts == [(0, 1), (1, 2), (2, 3)]
    # The second has another one behind it, and the fourth waits for two.
    assert Order((0, 1, 2, 2, 12), apart=False).parts == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert Order((0, 1, 2, 2, 12), apart=False).waits == [0, 1, 1, 6]
