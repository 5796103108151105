"""Which nodes of a body may overlap: those between which the declarations see nothing."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_kitchen.context import Context
from crucible_kitchen.graph import Stage, StageNode, loop, parallel, scope, stage, when, workflow
from crucible_kitchen.graph.order import edges
from crucible_kitchen.graph.overlap import Group, groups, may_overlap
from crucible_kitchen.ports import BlobStore, TrainingClient


def node(reads: str = "", writes: str = "", name: str = "") -> StageNode:
    """A stage that reads some keys and writes others, one letter each."""
    scope: dict[str, Any] = {}
    exec(f"def f({', '.join(reads)}): ...", scope)
    return stage(writes=tuple(writes))(scope["f"]).with_(name=name or f"{reads}_{writes}")


class Whole(Stage):
    reads = ("a",)
    writes = ("b",)

    def execute(self, ctx: Context) -> Context:
        return ctx


@stage(writes="x")
def trains(*, training_client: TrainingClient) -> int:
    return 1


@stage(writes="y")
def trains_too(*, training_client: TrainingClient) -> int:
    return 1


def test_a_chain_has_nothing_to_overlap() -> None:
    assert groups([node("", "a"), node("a", "b"), node("b", "c")]) == ()
    assert groups([node("", "a"), node("", "a")]) == ()  # write after write
    assert groups([node("a", "b"), node("", "a")]) == ()  # write after read
    assert groups([trains, trains_too], {"training_client": TrainingClient}) == ()
    assert groups([]) == groups([node("", "a")]) == ()


def test_a_diamond_is_cut_down_to_its_middle() -> None:
    body = [node("", "a"), node("a", "b"), node("a", "c"), node("bc", "d"), node("d", "e")]
    assert groups(body) == (Group(1, (0, 0)),)


def test_two_chains_side_by_side() -> None:
    body = [node("", "a"), node("", "b"), node("a", "c"), node("b", "d")]
    assert groups(body) == (Group(0, (0, 0, 0b01, 0b10)),)


def test_what_declares_too_little_keeps_its_place() -> None:
    assert groups([node("", "a"), Whole().with_(), node("", "c")]) == ()
    assert groups([node("", "a"), node("", "", "nothing"), node("", "c")]) == ()
    assert groups([node("a", ""), node("b", "")]) == ()  # both for what they do to the world
    assert groups([node("a", ""), node("", "b")]) == (Group(0, (0, 0)),)
    inside = loop("l", over=[1])[node("b", "", "effect")]
    assert groups([node("a", ""), inside]) == ()


def test_ports_that_take_several_stages_do_not_order_them() -> None:
    def saves(data: bytes, *, blob_store: BlobStore) -> int:
        return 1

    body = [stage(writes=key)(saves).with_(name=key) for key in "ab"]
    exclusive = type("One", (BlobStore,), {"concurrent": False})
    several = type("Many", (BlobStore,), {"concurrent": True})
    assert groups(body, {"blob_store": exclusive}) == ()
    assert groups(body, {"blob_store": (several, {})}) == (Group(0, (0, 0)),)
    # What a training client is asked for changes its session, whatever the adapter can take.
    client = type("Many", (TrainingClient,), {"concurrent": True})
    assert groups([trains, trains_too], {"training_client": client}) == ()


def test_after_is_an_order_that_no_key_tells() -> None:
    body = [node("", "a", "first"), node("", "b"), node("", "c").with_(after="first")]
    assert groups(body) == (Group(0, (0, 0, 0b001)),)


def test_scopes_of_one_name_share_their_keys() -> None:
    first, again = scope("s")[node("", "b")], parallel("p")[scope("s")[node("b", "d")]]
    assert groups([first, again]) == ()
    nested = scope("t")[scope("s")[node("b", "d")]]
    assert groups([first, nested]) == ()
    assert groups([first, scope("u")[node("b", "d")]]) == (Group(0, (0, 0)),)


def test_it_is_known_at_any_depth() -> None:
    pair = [node("", "a"), node("", "b")]
    assert may_overlap(workflow("w")[loop("l", over=[1])[when(True)[pair]]])
    assert not may_overlap(workflow("w")[parallel("p")[pair]])  # told, not found out
    assert not may_overlap(workflow("w")[node("", "a")].finally_[pair])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text("abcd", max_size=2), st.text("abcd", min_size=1, max_size=2))))
def test_it_agrees_with_the_edges(keys: list[tuple[str, str]]) -> None:
    """Two nodes are free of each other in a group exactly where no path of edges joins them."""
    body = [
        node("".join(dict.fromkeys(reads)), "".join(dict.fromkeys(writes)), f"n{place}")
        for place, (reads, writes) in enumerate(keys)
    ]
    after = [set[int]() for _ in body]
    for edge in edges(body):
        after[edge.after] |= {edge.before} | after[edge.before]
    free = {(i, j) for j in range(len(body)) for i in range(j) if i not in after[j]}
    found = set()
    for start, waits in groups(body):
        over = [set[int]() for _ in waits]
        for place, bits in enumerate(waits):
            for other in range(place):
                if bits >> other & 1:
                    over[place] |= {other} | over[other]
        found |= {
            (start + i, start + j) for j in range(len(waits)) for i in range(j) if i not in over[j]
        }
    assert found == free


def test_a_long_body_is_looked_at_quickly() -> None:
    body = [node("a", "a", f"n{place}") for place in range(1000)]
    began = time.process_time()
    assert groups(body) == ()
    assert time.process_time() - began < 1.0
