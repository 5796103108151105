"""What a workflow's text says is found out once, and belongs to that one value."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any, ClassVar

import pytest

from crucible_kitchen.engine import run
from crucible_kitchen.graph import (
    Workflow,
    as_workflow,
    facts,
    find_problems,
    loop,
    plan,
    stage,
    workflow,
)
from crucible_kitchen.graph.facts import Facts, facts_of
from crucible_kitchen.ports import TrainingClient


@stage(writes="b")
def read_a(a: int) -> int:
    return a


@stage(writes="c")
def read_b(b: int) -> int:
    return b


@stage(writes="d")
def train(*, training_client: TrainingClient) -> int:
    return 1


def test_the_text_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[Any] = []
    monkeypatch.setattr(facts, "analyse", lambda w: followed.append(w) or analyse(w))
    value = workflow("w")[read_a, read_b]
    for number in range(3):
        assert run(value, {"a": number}).context.state.c == number
        plan(value, {"a": number})
    assert len(followed) == 1
    run(value.insert_after("read_b", read_b.with_(name="again")), {"a": 0})
    assert len(followed) == 2, "an edited workflow is another one"


analyse = facts.analyse


def test_configuration_and_adapters_are_looked_at_every_time() -> None:
    value = workflow("w")[read_a, train]

    def codes(config: Any, adapters: Any) -> list[str]:
        return [problem.code for problem in find_problems(value, config, adapters)]

    for _ in range(2):
        assert codes({"a": 1}, None) == []
        assert codes({}, {}) == ["unknown-key", "missing-adapter"]
        assert codes({"a": "x", "b": 1}, None) == ["config-type", "shadows-config"]
        assert codes(None, None) == []


def test_what_is_wrong_with_the_text_is_told_every_time() -> None:
    value = workflow("w")[read_a, read_a, loop("l", over=range(3))]
    first, second = (find_problems(value, {"a": 1}) for _ in range(2))
    assert first == second
    assert [problem.code for problem in first] == ["duplicate-name", "empty-block"]


def test_a_list_that_was_filled_since() -> None:
    items: list[int] = []
    value = workflow("w")[loop("l", over=items)[read_a], read_b]
    assert [problem.code for problem in find_problems(value, {"a": 1})] == ["maybe-unwritten"]
    items.append(1)
    assert find_problems(value, {"a": 1}) == []
    assert run(value, {"a": 5}).context.state.c == 5


def test_it_is_still_the_same_value() -> None:
    value, other = workflow("w")[read_a, read_b], workflow("w")[read_a, read_b]
    before = hash(value)
    run(value, {"a": 1})
    assert (value, hash(value)) == (other, before)
    for twin in (copy.copy(value), copy.deepcopy(value)):
        assert twin == value
        assert facts_of(twin) is not facts_of(value)


def test_facts_go_with_their_value() -> None:
    value = workflow("w")[read_a, read_b]
    run(value, {"a": 1})
    known: weakref.ref[Facts] = weakref.ref(facts_of(value))
    del value
    gc.collect()
    assert known() is None


def test_a_class_gives_one_value_until_it_changes() -> None:
    class Counting(Workflow):
        body: ClassVar[list[Any]] = [read_a, [loop("l", over="numbers")[read_b]]]

        def numbers(self) -> list[int]:
            return [1, 2]

    class More(Counting):
        name = "more"

    first, other = as_workflow(Counting), as_workflow(More)
    assert as_workflow(Counting) is first
    assert as_workflow(More) is other
    assert facts_of(as_workflow(Counting)) is facts_of(first)
    assert (first.name, other.name) == ("counting", "more")
    Counting.body[1].append(read_a.with_(name="again"))
    second = as_workflow(Counting)
    for value in (second, as_workflow(More)):
        assert [node.name for node in value.body] == ["read_a", "l", "again"]
    Counting.numbers = lambda self: [1]  # type: ignore[method-assign]
    assert as_workflow(Counting) is not second
    assert as_workflow(Counting).body[1].over.of() == [1]
