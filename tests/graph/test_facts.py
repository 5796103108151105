"""What a workflow's text says is found out once, and belongs to that one value."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest

from crucible_kitchen.engine import run
from crucible_kitchen.graph import facts, find_problems, loop, plan, stage, workflow
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
