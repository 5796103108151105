"""Edits give new workflows and leave the old one alone."""

from __future__ import annotations

import pytest

from crucible_kitchen.engine import run
from crucible_kitchen.graph import loop, stage, walk, when, workflow


@stage
def a() -> None: ...


@stage
def b() -> None: ...


@stage
def c() -> None: ...


BASE = (
    workflow("w")[
        a, loop("l", over=[1])[b, when(True)[b.with_(name="x")].otherwise[c.with_(name="y")]]
    ]
    .finally_[c]
    .on_error[b.with_(name="z")]
)


def paths(value: object) -> list[str]:
    return [path for path, _ in walk(value)][1:]  # type: ignore[arg-type]


def test_insert_replace_and_leave_out() -> None:
    before = hash(BASE)
    assert BASE.insert_before("a", c).body[0] == c
    assert paths(BASE.insert_after("b", c))[:4] == ["w/a", "w/l", "w/l/b", "w/l/c"]
    assert "w/l/when/otherwise/a" in paths(BASE.replace("y", a))
    assert "w/l/when/x" not in paths(BASE.without("x"))
    assert paths(BASE.without("l")) == ["w/a", "w/on_error/z", "w/finally/c"]
    assert "w/finally/a" in paths(BASE.insert_after("finally/c", a))
    assert "w/on_error/a" in paths(BASE.replace("z", a))
    assert hash(BASE) == before
    run(BASE.insert_before("a", c))


def test_a_name_that_is_not_there_or_not_alone() -> None:
    with pytest.raises(ValueError, match="no node 'xx'"):
        BASE.without("xx")
    twice = BASE.insert_after("a", loop("m", over=[1])[b])
    with pytest.raises(ValueError, match="'b' could be w/m/b or w/l/b; say which"):
        twice.without("b")
    assert "w/m/b" not in paths(twice.without("m/b"))


def test_an_edit_that_empties_a_block_is_found_by_validation() -> None:
    from crucible_kitchen.graph import find_problems

    (problem,) = find_problems(BASE.without("y"))
    assert problem.code == "empty-block"
